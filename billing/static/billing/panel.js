/* What the panel's pages do beyond HTML. Every page works without it. */
"use strict";

(() => {
    const MINUS = "\u2212";
    const LARGEST = 9999999999999999999n; // ten-thousandths: 999,999,999,999,999.9999

    /* Amounts in ten-thousandths, as whole numbers: money is never a float. What is typed is read as
       billing/typed.py reads it; what that asks about, and what it refuses, is null here. */
    const exactAmount = (text) => {
        const match = /^(-?)(\d*)(?:\.(\d{0,4}))?$/.exec(text);
        if (!match || !(match[2] || match[3])) return null;
        const whole = BigInt((match[2] || "0") + (match[3] || "").padEnd(4, "0"));
        return match[1] === "-" ? -whole : whole;
    };

    const ungrouped = (whole) => {
        const grouped = whole.replace(/\D/g, ",");
        const separators = new Set(whole.replace(/\d/g, ""));
        const fits = /^\d{1,3}(,\d{3})+$/.test(grouped) || /^\d{1,2}(,\d{2})*,\d{3}$/.test(grouped);
        return separators.size === 1 && fits ? grouped.replaceAll(",", "") : "none";
    };

    const parseAmount = (text, currency, decimals) => {
        const line = text.trim().replace(/[−–﹣－]/g, "-").replace(/[’ʼ]/g, "'").replace(/\s+/g, " ")
            .replace(/^([+-]) ?([a-z]+) ?(?=[\d.,])/i, "$2 $1");
        if (line === "") return 0n;
        const found = /^([a-z]*) ?([+-]?) ?([\d., ']*\d[.,]?) ?([a-z]*)$/i.exec(line);
        if (!found) return null;
        const [, before, sign, number, after] = found;
        if ([before, after].some((word) => word && word.toUpperCase() !== currency)) return null;
        const minus = sign === "-" ? "-" : "";
        const separators = number.replace(/\d/g, "");
        const last = separators.at(-1);
        if (!last) return exactAmount(minus + number);
        const place = number.lastIndexOf(last);
        const [whole, rest] = [number.slice(0, place), number.slice(place + 1)];
        if (new Set(separators).size > 1) {
            if (" '".includes(last) || separators.split(last).length > 2) return null;
            return exactAmount(`${minus}${ungrouped(whole)}.${rest}`);
        }
        if (" '".includes(last) || separators.length > 1) return exactAmount(minus + ungrouped(number));
        if (rest.length === 3 && /^[1-9]\d{0,2}$/.test(whole)) {
            if (last === "," && decimals === 0) return exactAmount(minus + whole + rest);
            if (last !== "." || decimals !== 3) return null;
        }
        return exactAmount(`${minus}${whole}.${rest}`);
    };

    const formatAmount = (amount, decimals) => {
        const digits = (amount < 0n ? -amount : amount).toString().padStart(5, "0");
        const rest = digits.slice(-4);
        const part = /^0*$/.test(rest.slice(decimals)) ? rest.slice(0, decimals) : rest;
        const whole = digits.slice(0, -4).replace(/\B(?=(\d{3})+$)/g, ",");
        return `${amount < 0n ? MINUS : ""}${whole}${part && "."}${part}`;
    };

    /* Change balance: the resulting balances as one types. */
    const previewBalances = () => {
        for (const line of document.querySelectorAll("[data-after]")) {
            const input = document.getElementById(`id_${line.dataset.after}`);
            const now = exactAmount(line.dataset.now);
            const decimals = Number(line.dataset.decimals);
            if (!input || now === null) continue;
            const show = () => {
                const change = parseAmount(input.value, line.dataset.currency, decimals);
                line.hidden = !change || change > LARGEST || change < -LARGEST;
                if (line.hidden) return;
                line.querySelector("strong").textContent = formatAmount(now + change, decimals);
                line.classList.toggle("negative", now + change < 0n);
            };
            input.addEventListener("input", show);
            show();
        }
    };

    /* Change balance: a chosen reason fills in its description, and the last day of a bonus. */
    const fillInReason = () => {
        const chosen = document.querySelector("input[list=reasons]");
        if (!chosen) return;
        const filled = { description: "", bonus_expires_on: null };
        const fill = (name, text) => {
            const input = document.getElementById(`id_${name}`);
            filled[name] ??= input.value; // the usual day, which nobody typed
            if (input.value.trim() && input.value !== filled[name]) return; // typed by hand
            input.value = filled[name] = text;
        };
        chosen.addEventListener("input", () => {
            const typed = chosen.value.trim().toLowerCase();
            const reason = [...chosen.list.options].find((each) => each.value.toLowerCase() === typed);
            if (!reason) return;
            fill("description", reason.dataset.template);
            if (reason.dataset.lastDay) fill("bonus_expires_on", reason.dataset.lastDay);
        });
        // What stands in braces is to be typed over.
        const description = document.getElementById("id_description");
        description.addEventListener("focus", () => {
            const field = /\{[^{}]+\}/.exec(description.value);
            if (field) description.setSelectionRange(field.index, field.index + field[0].length);
        });
    };

    /* Days are typed as 2026-11-28; the button opens the browser's own calendar for them. */
    const calendars = () => {
        for (const button of document.querySelectorAll("[data-calendar]")) {
            const day = button.previousElementSibling;
            const calendar = button.nextElementSibling;
            if (!calendar.showPicker) continue;
            button.hidden = calendar.hidden = false;
            button.addEventListener("click", () => {
                calendar.value = day.value.trim(); // nothing, if it is no day
                calendar.showPicker();
            });
            calendar.addEventListener("change", () => {
                day.value = calendar.value;
                day.focus();
            });
        }
    };

    /* A form that posts money is sent once; the server sees to it as well. */
    const sendOnce = () => {
        for (const form of document.querySelectorAll("form[data-once]")) {
            form.addEventListener("submit", (event) => {
                if (form.dataset.sent) {
                    event.preventDefault();
                    return;
                }
                form.dataset.sent = "yes";
                (event.submitter ?? form.querySelector("button[type=submit]")).setAttribute("aria-busy", "true");
            });
            // Coming back to a page the browser kept: it may be sent again, with the same key.
            window.addEventListener("pageshow", () => delete form.dataset.sent);
        }
    };

    /* A secret is copied with one click, and gone from the page once it is left: "back" shows none. */
    const secrets = () => {
        for (const button of document.querySelectorAll("[data-copy]")) {
            const field = document.getElementById(button.dataset.copy);
            const words = button.querySelector("[data-words]");
            button.hidden = false;
            button.addEventListener("click", async () => {
                field.select();
                let done = false;
                try {
                    await navigator.clipboard.writeText(field.value);
                    done = true;
                } catch {
                    done = document.execCommand("copy"); // without HTTPS there is no clipboard
                }
                words.textContent = done ? "Copied" : "Press Ctrl+C";
            });
        }
        for (const field of document.querySelectorAll("[data-secret]")) {
            field.addEventListener("focus", () => field.select());
            window.addEventListener("pagehide", () => { field.value = ""; });
        }
    };

    /* A form that was sent after its session had ended: its fields are filled in as they were. */
    const fillInUnsent = () => {
        const kept = document.getElementById("unsent-fields");
        if (!kept) return;
        const lost = [];
        for (const [name, values] of Object.entries(JSON.parse(kept.textContent))) {
            const fields = [...document.getElementsByName(name)].filter(
                (field) => field.form?.method === "post" && field.type !== "submit"
            );
            if (!fields.length && !/^_|-(TOTAL|INITIAL|MIN_NUM|MAX_NUM)_/.test(name)) {
                lost.push(...values.filter((value) => value));
            }
            fields.forEach((field, place) => {
                if (field.type === "checkbox" || field.type === "radio") {
                    field.checked = values.includes(field.value);
                } else if (field.multiple) {
                    for (const option of field.options) option.selected = values.includes(option.value);
                } else if (values[place] !== undefined) {
                    field.value = values[place];
                }
                for (const kind of ["input", "change"]) {
                    field.dispatchEvent(new Event(kind, { bubbles: true }));
                }
            });
        }
        // A box that was not ticked is not sent.
        const sent = JSON.parse(kept.textContent);
        const form = Object.keys(sent)
            .flatMap((name) => [...document.getElementsByName(name)])
            .find((field) => field.form?.method === "post")?.form;
        for (const box of form?.querySelectorAll("input[type=checkbox]") ?? []) {
            if (box.name && !(box.name in sent) && box.checked) {
                box.checked = false;
                box.dispatchEvent(new Event("change", { bubbles: true }));
            }
        }
        if (lost.length) {
            const line = document.querySelector("[data-unsent-lost]");
            line.querySelector("span").textContent = lost.join(", ");
            line.hidden = false;
        }
    };

    /* Charts, drawn by Unfold's Chart.js in the colours of the page. */
    const colour = (name) =>
        getComputedStyle(document.documentElement).getPropertyValue(name).trim();

    const axis = (extra) => ({
        grid: { color: colour("--panel-line"), tickWidth: 0 },
        border: { display: false },
        ...extra,
        ticks: { color: colour("--panel-subtle"), maxRotation: 0, autoSkipPadding: 16, ...extra.ticks },
    });

    const tooltipFormat = (value, decimals) =>
        formatAmount(BigInt(Math.round(value * 10000)), decimals);

    /* Amounts along an axis, with one number of decimals. */
    const axisOfAmounts = (decimals) => axis({
        beginAtZero: true,
        ticks: {
            maxTicksLimit: 6,
            callback: (value, place, ticks) => {
                const units = ticks.map((tick) => tick.value * 10 ** decimals);
                const isFine = units.some((each) => Math.abs(each - Math.round(each)) > 1e-6);
                const all = isFine ? 4 : decimals;
                return value.toLocaleString("en-US", { minimumFractionDigits: all, maximumFractionDigits: all })
                    .replace("-", MINUS);
            },
        },
    });

    const balancesChart = (data) => {
        const format = (parts) =>
            new Intl.DateTimeFormat("en-CA", { timeZone: data.timeZone, hourCycle: "h23", ...parts });
        const minute = format({ dateStyle: "short", timeStyle: "short" });
        const span = data.points.at(-1)[0] - data.points[0][0];
        let label = format({ timeStyle: "medium" });
        if (span > 3600e3) label = minute;
        if (span > 3 * 86400e3) label = format({ dateStyle: "short" });
        const line = (title, column, colourName, dash) => ({
            label: title,
            data: data.points.map((point) => ({ x: point[0], y: Number(point[column]) })),
            borderColor: colour(colourName),
            borderWidth: 2,
            borderDash: dash,
            stepped: "before",
            pointRadius: 0,
            pointHitRadius: 12,
        });
        return {
            type: "line",
            data: {
                datasets: [
                    line("Balance", 1, "--color-primary-500", []),
                    line("Bonus", 2, "--color-orange-500", [5, 4]),
                ],
            },
            options: {
                interaction: { mode: "index", intersect: false },
                scales: {
                    x: axis({
                        type: "linear",
                        min: data.points[0][0],
                        max: data.points.at(-1)[0],
                        grid: { display: false },
                        ticks: { callback: (value) => label.format(new Date(value)), maxTicksLimit: 7 },
                    }),
                    y: axisOfAmounts(data.decimals),
                },
                plugins: {
                    tooltip: {
                        callbacks: {
                            title: (items) => minute.format(new Date(items[0].parsed.x)),
                            label: (item) => `${item.dataset.label}: ${tooltipFormat(item.parsed.y, data.decimals)}`,
                        },
                    },
                },
            },
        };
    };

    const daysChart = (data) => {
        const bars = (title, values, colourName) => ({
            label: title, data: values.map(Number), backgroundColor: colour(colourName),
            borderRadius: 3, maxBarThickness: 14,
        });
        return {
            type: "bar",
            data: {
                labels: data.days,
                datasets: [
                    bars("Refills", data.refills, "--color-primary-500"),
                    bars("Charges", data.charges, "--color-orange-500"),
                ],
            },
            options: {
                interaction: { mode: "index", intersect: false },
                scales: {
                    x: axis({ grid: { display: false }, ticks: {} }),
                    y: axisOfAmounts(data.decimals),
                },
                plugins: {
                    tooltip: {
                        callbacks: {
                            label: (item) => `${item.dataset.label}: ${tooltipFormat(item.parsed.y, data.decimals)}`,
                        },
                    },
                },
            },
        };
    };

    const drawCharts = () => {
        if (!window.Chart) return;
        for (const canvas of document.querySelectorAll("[data-panel-chart]")) {
            const data = JSON.parse(canvas.dataset.panelChart);
            const draw = () => {
                Chart.getChart(canvas)?.destroy();
                const chart = data.kind === "days" ? daysChart(data) : balancesChart(data);
                chart.options = { ...chart.options, responsive: true, maintainAspectRatio: false, animation: false };
                chart.options.plugins.legend = {
                    align: "end",
                    labels: { color: colour("--panel-text"), boxWidth: 18, boxHeight: 2 },
                };
                new Chart(canvas, chart);
            };
            draw();
            // The theme switch changes the class of <html>.
            new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["class"] });
        }
    };

    /* What goes on in the background is shown as it goes on, as long as the page is looked at: rows
       that say so are fetched again. (Not without end, which would keep the session alive.) */
    const LOOK_MILLISECONDS = 2000;
    const LOOKS = 900;
    const followWhatGoesOn = () => {
        let looks = 0;
        const look = async () => {
            if (!document.hidden) {
                looks += 1;
                const answer = await fetch(location.href).catch(() => null); // the next look may get one
                if (answer && (!answer.ok || answer.redirected)) return;
                const page = new DOMParser().parseFromString(answer ? await answer.text() : "", "text/html");
                for (const row of document.querySelectorAll("[data-live]")) {
                    const now = page.getElementById(row.id);
                    if (now && !row.contains(document.activeElement)) row.replaceWith(document.importNode(now, true));
                }
            }
            lookAgain();
        };
        const lookAgain = () => {
            if (looks < LOOKS && document.querySelector("[data-live]")) setTimeout(look, LOOK_MILLISECONDS);
        };
        lookAgain();
    };

    /* On a phone, filters that are not in use give way to the list. */
    const closeFilters = () => {
        if (!window.matchMedia("(max-width: 767px)").matches) return;
        for (const filters of document.querySelectorAll('[data-closed-on-phones=""]')) {
            filters.open = false;
        }
    };

    /* After a refusal the keyboard stands where it goes on: in the first field that is wrong, else
       at the sentence that says what happened. */
    const focusWhatIsWrong = () => {
        const visible = (selector) =>
            [...document.querySelectorAll(selector)].filter((element) => element.checkVisibility());
        const field = visible('main [aria-invalid="true"]').at(0);
        const sentence = visible('main [role="alert"]').at(-1); // the first one may be general
        if (!field && sentence) sentence.tabIndex = -1;
        (field ?? sentence)?.focus();
    };

    document.addEventListener("DOMContentLoaded", () => {
        closeFilters();
        previewBalances();
        fillInReason();
        calendars();
        sendOnce();
        secrets();
        drawCharts();
        followWhatGoesOn();
        window.addEventListener("load", fillInUnsent);
        focusWhatIsWrong();
        document.getElementById("posted")?.scrollIntoView({ block: "nearest" });
    });
})();
