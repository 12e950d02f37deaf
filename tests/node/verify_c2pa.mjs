// Judges picture files with c2pa-ts, which shares no code with c2pa-rs: one JSON object a line.
import { readFile } from 'node:fs/promises';
import { BMFF, JPEG, PNG } from '@trustnxt/c2pa-ts/asset';
import { SuperBox } from '@trustnxt/c2pa-ts/jumbf';
import { ManifestStore, ValidationResult } from '@trustnxt/c2pa-ts/manifest';

async function judged(path) {
  const data = await readFile(path);
  const kind = [JPEG, PNG, BMFF].find((kind) => kind.canRead(data));
  if (!kind) return { isValid: null, codes: ['unknown file format'] };
  const asset = new kind(data);
  const box = asset.getManifestJUMBF();
  if (!box) return { isValid: null, codes: ['no manifest'] };
  let result, manifests;
  try {
    manifests = ManifestStore.read(SuperBox.fromBuffer(box));
    result = await manifests.validate(asset);
  } catch (error) {
    result = ValidationResult.fromError(error);
  }
  return {
    isValid: result.isValid,
    codes: result.statusEntries.filter((entry) => !entry.success).map((entry) => entry.code),
    numManifests: manifests?.manifests.length ?? 0,
  };
}

for (const path of process.argv.slice(2)) console.log(JSON.stringify(await judged(path)));
