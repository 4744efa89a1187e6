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
const first = router.route.peek();
void page.load(code, () => first.view === "session" && page.conversation(first.id).open());
install();
// A page that the browser keeps for going back must not keep what only one tab may have.
addEventListener("pagehide", () => page.leave());
addEventListener("pageshow", (event) => event.persisted && location.reload());
const place = document.getElementById("app");
if (place !== null) render(<App page={page} router={router} />, place);
