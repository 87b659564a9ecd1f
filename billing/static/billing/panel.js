/* What the panel's pages do beyond HTML. Every page works without it. */
"use strict";

(() => {
    const MINUS = "\u2212";
    const LARGEST = 9999999999999999999n; // ten-thousandths: 999,999,999,999,999.9999

    /* Amounts in ten-thousandths, as whole numbers: money is never a float. */
    const parseAmount = (text) => {
        let plain = text.trim().replace(MINUS, "-");
        if (/^[+-]?\s?\d{1,3}(\s\d{3})*(\.\d*)?$/.test(plain)) plain = plain.replace(/\s/g, "");
        if (plain === "") return 0n;
        const match = /^([+-]?)(\d*)(?:\.(\d{0,4}))?$/.exec(plain);
        if (!match || !(match[2] || match[3])) return null;
        const whole = BigInt((match[2] || "0") + (match[3] || "").padEnd(4, "0"));
        return match[1] === "-" ? -whole : whole;
    };

    const formatAmount = (amount) => {
        const digits = (amount < 0n ? -amount : amount).toString().padStart(5, "0");
        const decimals = digits.slice(-4).replace(/00$/, "");
        const whole = digits.slice(0, -4).replace(/\B(?=(\d{3})+$)/g, ",");
        return `${amount < 0n ? MINUS : ""}${whole}.${decimals}`;
    };

    /* Change balance: the resulting balances as one types. */
    const previewBalances = () => {
        for (const line of document.querySelectorAll("[data-after]")) {
            const input = document.getElementById(`id_${line.dataset.after}`);
            const now = parseAmount(line.dataset.now);
            if (!input || now === null) continue;
            const show = () => {
                const change = parseAmount(input.value);
                line.hidden = !change || change > LARGEST || change < -LARGEST;
                if (line.hidden) return;
                line.querySelector("strong").textContent = formatAmount(now + change);
                line.classList.toggle("negative", now + change < 0n);
            };
            input.addEventListener("input", show);
            show();
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
                form.querySelector("button[type=submit]").setAttribute("aria-busy", "true");
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

    /* Charts, drawn by Unfold's Chart.js in the colours of the page. */
    const colour = (name) =>
        getComputedStyle(document.documentElement).getPropertyValue(name).trim();

    const axis = (extra) => ({
        grid: { color: colour("--panel-line"), tickWidth: 0 },
        border: { display: false },
        ...extra,
        ticks: { color: colour("--panel-subtle"), maxRotation: 0, autoSkipPadding: 16, ...extra.ticks },
    });

    const tooltipFormat = (value) => formatAmount(BigInt(Math.round(value * 10000)));

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
                    y: axis({ beginAtZero: true, ticks: { maxTicksLimit: 6 } }),
                },
                plugins: {
                    tooltip: {
                        callbacks: {
                            title: (items) => minute.format(new Date(items[0].parsed.x)),
                            label: (item) => `${item.dataset.label}: ${tooltipFormat(item.parsed.y)}`,
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
                    y: axis({ beginAtZero: true, ticks: { maxTicksLimit: 6 } }),
                },
                plugins: {
                    tooltip: {
                        callbacks: {
                            label: (item) => `${item.dataset.label}: ${tooltipFormat(item.parsed.y)}`,
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
        sendOnce();
        secrets();
        drawCharts();
        focusWhatIsWrong();
        document.getElementById("posted")?.scrollIntoView({ block: "nearest" });
    });
})();
