import { render } from "preact";
import "uplot/dist/uPlot.min.css";
import { App } from "./app";
import { onKey } from "./keyboard";
import { start as listen } from "./live";
import "./page.css";
import { start } from "./state";

start();
listen();
addEventListener("keydown", onKey);
render(<App />, document.querySelector("#app")!);
