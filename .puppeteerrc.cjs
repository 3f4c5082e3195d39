// The browser test finds an installed Chrome or Chromium, or unpacks the one in @sparticuz/chromium.
module.exports = { skipDownload: true };
