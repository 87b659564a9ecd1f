// First steps of a program, with a client generated from the panel's description; see docs/api.md.
import createClient from "openapi-fetch";
import type { components, paths, webhooks } from "./billing.js";

const api = createClient<paths>({
  baseUrl: process.env["API"] ?? "http://127.0.0.1:8000",
  headers: { Authorization: `Bearer ${process.env["KEY"]}` },
});
const planId = Number(process.env["PLAN"]);

function done<T>(answer: { data?: T; error?: unknown }): T {
  if (answer.data === undefined) throw new Error(JSON.stringify(answer.error));
  return answer.data;
}

// Fields with a default may be left out.
const refill: components["schemas"]["BalanceChangeIn"] = {
  description: "Bank transfer 4711",
  amount: "25.00",
};
type Posted = webhooks["transaction.posted"]["post"]["requestBody"]["content"]["application/json"];
export const told = (message: Posted): string => message.data.transaction.new_balance;

const user = done(
  await api.POST("/api/v1/users", { body: { email: `ada-${Date.now()}@example.net` } }),
);
const path = { user_id: user.id };
const keyed = { path, header: { "Idempotency-Key": "transfer-4711" } };
const change = { params: keyed, body: refill };
const first = done(await api.POST("/api/v1/users/{user_id}/balance-changes", change));
const again = await api.POST("/api/v1/users/{user_id}/balance-changes", change);
console.log("replayed:", again.response.headers.get("Idempotency-Replayed"), first.number);

const entries = [1, 2, 3].map((n) => ({
  user_id: user.id,
  description: `Transfer number ${n}`,
  amount: "1",
}));
const batch = done(await api.POST("/api/v1/balance-changes", { body: { entries } }));
console.log("batch:", batch.results.map((each) => each.outcome).join(" "));

let cursor: string | undefined;
const numbers: number[] = [];
do {
  const query = cursor === undefined ? { limit: 2 } : { limit: 2, cursor };
  const page = done(
    await api.GET("/api/v1/users/{user_id}/transactions", { params: { path, query } }),
  );
  numbers.push(...page.transactions.map((row) => row.number));
  cursor = page.next_cursor ?? undefined;
} while (cursor !== undefined);
console.log("pages:", numbers.join(" "));

const subscription = done(
  await api.POST("/api/v1/users/{user_id}/subscriptions", {
    params: { path },
    body: { plan_id: planId, device: "8617" },
  }),
);
console.log("subscribed:", subscription.subscription.status);
const body = { service: "outgoing_sms", quantity: "10", device: "8617" };
const use = { params: { path }, body };
const quote = done(await api.POST("/api/v1/users/{user_id}/service-charges/quote", use));
console.log("quote:", quote.cost);
const reversal = done(
  await api.POST("/api/v1/users/{user_id}/transactions/{number}/reversal", {
    params: { path: { ...path, number: 2 } },
    body: { description: "Sent twice" },
  }),
);
console.log("reversed:", reversal.reverses);
