import type { Asked } from "../model/transcript.ts";
import { t } from "../i18n/index.ts";
import { visible } from "../text/visible.ts";
import styles from "./QuestionForm.module.css";

interface Item {
  id: string;
  question: string;
  header?: string;
  options?: { label: string; description?: string }[];
  multiSelect?: boolean;
  optional?: boolean;
}

/** What only a person knows: choices, and words of one's own. */
export function QuestionForm(props: { id: string; asked: Asked; onAnswer(answers: Record<string, string | string[]>): void }) {
  const items = itemsOf(props.asked.input["questions"]);
  const submit = (event: SubmitEvent) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    props.onAnswer(Object.fromEntries(items.map((item) => [item.id, answerOf(item, form)])));
  };
  return (
    <form id={props.id} class={styles["form"]} onSubmit={submit}>{items.map((item) => <Field key={item.id} item={item} />)}</form>
  );
}

function Field({ item }: { item: Item }) {
  const type = item.multiSelect ? "checkbox" : "radio";
  const options = item.options ?? [];
  return (
    <fieldset>
      <legend>{visible(item.question)}</legend>
      {options.map((option) => (
        <label class={styles["option"]} key={option.label}>
          <input type={type} name={item.id} value={option.label} />
          <span>{visible(option.label)}{option.description && <small>{visible(option.description)}</small>}</span>
        </label>
      ))}
      <input type="text" name={`${item.id} words`} aria-label={options.length > 0 ? t("question.other") : item.question}
        placeholder={options.length > 0 ? t("question.other") : ""} required={options.length === 0 && !item.optional} />
    </fieldset>
  );
}

function answerOf(item: Item, form: FormData): string | string[] {
  const words = String(form.get(`${item.id} words`) ?? "").trim();
  const chosen = [...form.getAll(item.id).map(String), ...(words === "" ? [] : [words])];
  // Words of one's own are meant, whatever was chosen before them.
  return item.multiSelect ? chosen : (chosen.at(-1) ?? "");
}

/** What an agent has written, as far as it can be asked. */
function itemsOf(value: unknown): Item[] {
  const objects = (list: unknown) => (Array.isArray(list) ? list : []).filter((one) => typeof one === "object" && one !== null) as Item[];
  return objects(value).map((item) => ({ ...item, options: objects(item.options) as unknown as NonNullable<Item["options"]> }));
}
