/**
 * @file A bitmap font for captions: glyphs of 5 x 8 pixels, drawn for this project.
 *
 * A glyph is eight base-32 digits, one a row from the top, whose bits are the row's pixels from left to right. Small
 * letters stand on the seventh row; the eighth holds descenders.
 */
const GLYPHS: Readonly<Record<string, string>> = {
  ...glyphs(
    'ABCDEFGHIJKLM',
    'ehhvhhh0 uhhuhhu0 ehggghe0 uhhhhhu0 vgguggv0 vgguggg0 ehgnhhf0 hhhvhhh0 e44444e0 72222ic0 hikokih0 ggggggv0 hrllhhh0',
  ),
  ...glyphs(
    'NOPQRSTUVWXYZ',
    'hhpljhh0 ehhhhhe0 uhhuggg0 ehhhlid0 uhhukih0 fgge11u0 v4444440 hhhhhhe0 hhhhha40 hhhllla0 hha4ahh0 hhha4440 v1248gv0',
  ),
  ...glyphs(
    'abcdefghijklm',
    '00e1fhf0 ggmphhu0 00egghe0 11djhhf0 00ehvge0 698s8880 00fhhf1e ggmphhh0 40c444e0 206222ic ggikoki0 c44444e0 00qllhh0',
  ),
  ...glyphs(
    'nopqrstuvwxyz',
    '00mphhh0 00ehhhe0 00uhhugg 00fhhf11 00mpggg0 00fge1u0 88s88960 00hhhjd0 00hhha40 00hhlla0 00ha4ah0 00hhhf1e 00v248v0',
  ),
  ...glyphs('0123456789', 'ehjlphe0 4c4444e0 eh1248v0 v2421he0 26aiv220 vgu11he0 68guhhe0 v1248880 ehhehhe0 ehhf12c0'),
  ...glyphs(
    " -/.,:_()%=+&'#?",
    '00000000 000e0000 11248gg0 00000cc0 00000c48 00cc0cc0 0000000v 24888420 84222480 op248j30 00v0v000 044v4400 cik8lid0 44000000 aavavaa0 eh124040',
  ),
};

function glyphs(characters: string, rows: string): Record<string, string> {
  const list = rows.split(' ');
  return Object.fromEntries([...characters].map((character, i) => [character, list[i]!]));
}

export const GLYPH_HEIGHT = 8;
/** From the left of one character to the left of the next. */
const ADVANCE = 6;

export const textWidth = (text: string): number => Math.max(0, text.length * ADVANCE - 1);

/** Calls `plot` for each pixel of the text, with its column and row. Characters without a glyph become question marks. */
export function drawText(text: string, plot: (x: number, y: number) => void): void {
  [...text].forEach((character, index) => {
    const glyph = GLYPHS[character] ?? GLYPHS['?']!;
    for (let y = 0; y < GLYPH_HEIGHT; y++) {
      const bits = Number.parseInt(glyph[y]!, 32);
      for (let x = 0; x < 5; x++) if (bits & (16 >> x)) plot(index * ADVANCE + x, y);
    }
  });
}
