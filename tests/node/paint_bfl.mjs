// Paints and edits through the AI SDK's provider for Black Forest Labs: paint_bfl.mjs URL REFERENCE OUTPUT

import { readFileSync, writeFileSync } from "node:fs";
import { createBlackForestLabs } from "@ai-sdk/black-forest-labs";
import { generateImage } from "ai";

const [url, reference, output] = process.argv.slice(2);
const provider = createBlackForestLabs({ baseURL: `${url}/v1`, apiKey: "none", pollIntervalMillis: 100 });

const painted = await generateImage({
  model: provider.image("flux-2-klein-4b"),
  prompt: "a fox on a blue background",
  seed: 7,
  size: "256x256",
  providerOptions: { blackForestLabs: { steps: 1, outputFormat: "png", safetyTolerance: 2 } },
});
writeFileSync(output, painted.image.uint8Array);

const edited = await generateImage({
  model: provider.image("flux-2-klein-4b"),
  prompt: { text: "change the background to yellow", images: [readFileSync(reference)] },
  seed: 8,
  providerOptions: { blackForestLabs: { steps: 1 } },
});

const facts = painted.providerMetadata.blackForestLabs.images[0];
console.log(JSON.stringify({
  seed: facts.seed, duration: facts.duration, cost: facts.cost, outputMegapixels: facts.outputMegapixels,
  painted: painted.image.mediaType, edited: edited.image.mediaType, warnings: painted.warnings.length,
}));
