/** Files of a chart: what is exported is what the API says, or the picture as it is. */

export function save(content: Blob, name: string): void {
  const url = URL.createObjectURL(content);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

export interface Caption { title: string; entries: readonly { label: string; colour: string }[] }

/** A canvas as PNG, on the colour of its card and with what the page says above it. */
export function savePicture(canvas: HTMLCanvasElement, name: string, caption: Caption = { title: "", entries: [] }): void {
  captioned(canvas, caption).toBlob((blob) => { if (blob) save(blob, name); });
}

function captioned(canvas: HTMLCanvasElement, { title, entries }: Caption): HTMLCanvasElement {
  const style = getComputedStyle(document.documentElement);
  const scale = window.devicePixelRatio || 1;
  const head = Math.round((title ? 30 : 8) * scale);
  const out = document.createElement("canvas");
  out.width = canvas.width;
  out.height = canvas.height + head;
  const context = out.getContext("2d");
  if (!context) return canvas;
  context.fillStyle = style.getPropertyValue("--card");
  context.fillRect(0, 0, out.width, out.height);
  context.drawImage(canvas, 0, head);
  let left = 12 * scale;
  const write = (text: string, colour: string, font: string): void => {
    context.fillStyle = colour;
    context.font = font;
    context.fillText(text, left, 20 * scale);
    left += context.measureText(text).width + 14 * scale;
  };
  write(title, style.getPropertyValue("--ink"), `600 ${14 * scale}px system-ui`);
  for (const { label, colour } of entries) write(`● ${label}`, colour, `${12 * scale}px system-ui`);
  return out;
}
