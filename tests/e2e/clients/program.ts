// Lists a customer's cards, deletes one, and follows the feed until it says so; with a client that openapi-typescript made.
// Arguments: address, key, environment, customer, card. Prints one JSON object.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

type Environment = components["schemas"]["Environment"];
type Change = components["schemas"]["Change"];

declare const process: { argv: string[]; exitCode?: number };

function environmentOf(text: string): Environment {
  if (text === "sandbox" || text === "production") return text;
  throw new Error(`no environment: ${text}`);
}

async function main(): Promise<void> {
  const [address = "", key = "", named = "", customer_id = "", card_id = ""] = process.argv.slice(2);
  const environment = environmentOf(named);
  const client = createClient<paths>({ baseUrl: address, headers: { Authorization: `Bearer ${key}` } });

  const listed = await client.GET("/v1/cards", { params: { query: { environment, customer_id } } });
  if (listed.error) throw new Error(listed.error.code);
  const cards = listed.data.cards.map((card) => card.card_id);

  const wrong = await client.GET("/v1/cards/{card_id}", { params: { path: { card_id: "no-uuid" } } });
  const fieldCode = wrong.error?.errors?.[0]?.code ?? null;

  const header = { "Idempotency-Key": `delete-${card_id}` };
  const asked = await client.POST("/v1/deletions", { params: { header }, body: { card_id } });
  if (asked.error) throw new Error(asked.error.code);
  const again = await client.POST("/v1/deletions", { params: { header }, body: { card_id } });

  const seen: Change[] = [];
  for (let after = 0; !seen.includes("removed"); ) {
    const page = await client.GET("/v1/changes", { params: { query: { after, wait: 5 } } });
    if (page.error) throw new Error(page.error.code);
    seen.push(...page.data.changes.filter((one) => one.card_id === card_id).map((one) => one.change));
    after = page.data.next_after;
  }

  const path = { deletion_id: asked.data.deletion_id };
  const done = await client.GET("/v1/deletions/{deletion_id}", { params: { path } });
  if (done.error) throw new Error(done.error.code);
  const replayed = again.response.headers.get("Idempotent-Replayed");
  console.log(JSON.stringify({ cards, fieldCode, seen, replayed, status: done.data.status }));
}

main().catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
