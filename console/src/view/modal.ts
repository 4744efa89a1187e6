import { useLayoutEffect, useRef } from "preact/hooks";

/** For a <dialog> that is modal for as long as it is there; the focus comes back to where it was. */
export function useModal() {
  const dialog = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => {
    dialog.current?.showModal();
    return () => dialog.current?.close();
  }, []);
  return dialog;
}
