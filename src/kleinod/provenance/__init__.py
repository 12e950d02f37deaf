"""Where a picture comes from: a watermark in its pixels, a receipt, a signed C2PA manifest."""
