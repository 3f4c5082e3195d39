declare module '*.safetensors?url' {
  const url: string;
  export default url;
}
declare module '*?bytes' {
  /** Size of the file when the page was built. */
  const bytes: number;
  export default bytes;
}
declare module '*.png?url' {
  const url: string;
  export default url;
}
declare module '*.json?url' {
  const url: string;
  export default url;
}
