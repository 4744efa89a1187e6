const PATHS: Record<string, string> = {
  plus: "M12 5v14M5 12h14",
  inbox: "M3 13l3-8h12l3 8v6H3zM3 13h5l1.5 3h5L16 13h5",
  list: "M4 6h16M4 12h16M4 18h16",
  back: "M15 5l-7 7 7 7",
  stop: "M7 7h10v10H7z",
  execute: "M5 7l5 5-5 5M12 18h7",
  edit: "M4 20l1-4L16 5l3 3L8 19z",
  read: "M6 3h9l4 4v14H6zM14 3v5h5",
  search: "M10.5 17a6.5 6.5 0 110-13 6.5 6.5 0 010 13zM20 20l-5-5",
  fetch: "M12 3a9 9 0 100 18 9 9 0 000-18zM3 12h18M12 3c3 3 3 15 0 18M12 3c-3 3-3 15 0 18",
  think: "M9 18h6M10 21h4M8 14a6 6 0 118 0v2H8z",
  clip: "M20 11l-8.5 8.5a5 5 0 01-7-7L13 4a3.4 3.4 0 015 5l-8.5 8.5a1.7 1.7 0 01-2.4-2.4L15 7",
  up: "M6 15l6-6 6 6",
  down: "M6 9l6 6 6-6",
  close: "M6 6l12 12M18 6L6 18",
  check: "M5 12.5l4.5 4.5L19 7",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  terminal: "M4 5h16v14H4zM7.5 9.5l3 2.5-3 2.5M13 15h4",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  settings: "M5 7h9M18 7h1M5 17h1M10 17h9M16 5v4M8 15v4",
  usage: "M5 20V11M12 20V4M19 20v-6",
  folder: "M3 6h6l2 2h10v11H3z",
  file: "M6 3h9l4 4v14H6zM14 3v5h5",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  upload: "M12 16V5M7 9l5-5 5 5M5 20h14",
  comment: "M4 5h16v11H10l-4 4v-4H4z",
  archive: "M4 8h16v12H4zM3 4h18v4H3zM10 12h4",
  again: "M19 12a7 7 0 11-2-5l2 2M19 4v5h-5",
  out: "M10 4H5v16h5M14 8l4 4-4 4M18 12H9",
  move: "M4 12h16M14 6l6 6-6 6",
  delete: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  switch_mode: "M4 8h13l-3-3M20 16H7l3 3",
  other: "M12 3l8 4.5v9L12 21l-8-4.5v-9z",
};

/** A picture beside words; alone it says nothing. */
export function Icon({ name }: { name: string }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={PATHS[name] ?? PATHS["other"]} {...(name === "more" && { "stroke-width": 3 })} />
    </svg>
  );
}
