/** Makes the page one that can be installed and opens without a network; where that is not possible it works as it is. */

interface Policies {
  createPolicy(name: string, rules: { createScriptURL(url: string): string }): { createScriptURL(url: string): string };
}

/** What is looked at now has the network for itself first. */
const LATER_MS = 2_000;

export function install(): void {
  if ("serviceWorker" in navigator) setTimeout(register, LATER_MS);
}

function register(): void {
  const policies = (window as { trustedTypes?: Policies }).trustedTypes;
  const policy = policies?.createPolicy("agentsrv-worker", { createScriptURL: () => "sw.js" });
  navigator.serviceWorker.register(policy?.createScriptURL("sw.js") ?? "sw.js").catch(() => undefined);
}
