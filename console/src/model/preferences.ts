/** How somebody wants this page to be on this device. */

export interface Preferences {
  theme: "system" | "light" | "dark";
  /** Single letters are commands. */
  hasKeys: boolean;
  notifies: boolean;
  isListHidden: boolean;
  panelWidth: number;
  diff: "unified" | "split";
  wraps: boolean;
}

export const DEFAULTS: Preferences = {
  theme: "system", hasKeys: true, notifies: false, isListHidden: false, panelWidth: 600, diff: "unified", wraps: false,
};

const KEY = "agentsrv-console-preferences";

/** Storage may be refused; then they are the defaults. */
export function loadPreferences(): Preferences {
  try {
    return { ...DEFAULTS, ...(JSON.parse(localStorage.getItem(KEY) ?? "{}") as Partial<Preferences>) };
  } catch {
    return DEFAULTS;
  }
}

export function keepPreferences(preferences: Preferences): void {
  try {
    localStorage.setItem(KEY, JSON.stringify(preferences));
  } catch {
    // They hold for this tab.
  }
}

export function applyTheme({ theme }: Preferences): void {
  document.documentElement.dataset["theme"] = theme;
}

/** Whether the page is dark now, by choice or because the system is. */
export function isDark({ theme }: Preferences): boolean {
  return theme === "dark" || (theme === "system" && matchMedia("(prefers-color-scheme: dark)").matches);
}
