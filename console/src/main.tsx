import { render } from "preact";
import { Console } from "./model/console.ts";
import { Router, takeCode } from "./model/route.ts";
import { install } from "./api/install.ts";
import { App } from "./view/App.tsx";
import "./view/global.css";

// The page lies at <root>/console/: everything else of the server is beside it.
const page = new Console("../");
const code = takeCode();
const router = new Router();
router.start();
void page.load(code);
install();
const place = document.getElementById("app");
if (place !== null) render(<App page={page} router={router} />, place);
