/* The documentation of calls: Swagger UI, with what screen readers and keyboards miss in it. */

(() => {
    const root = document.getElementById("swagger-ui");

    // A link within a button is reached by nobody. The button itself changes the address.
    const withoutLinksInButtons = () => ({
        wrapComponents: {
            DeepLink: (_, { React }) => ({ text }) => React.createElement("span", null, text),
        },
    });

    const call = (element) =>
        element.closest(".opblock")?.querySelector(".opblock-summary-path")?.textContent ?? "";

    // What has no name that is read aloud, and the name that it gets.
    const NAMES = {
        "select#servers": () => "Server",
        "tr[data-param-name] select": (select) => select.closest("tr").dataset.paramName,
        "textarea.body-param__text": () => "Body of the request",
        "button.close-modal": () => "Close",
        ".copy-to-clipboard button": () => "Copy",
        "table.responses-table[role=region]": (table) => `Responses of ${call(table)}`,
    };

    const mend = () => {
        for (const heading of root.querySelectorAll(":is(h3, h4, h5, h6):not([aria-level])")) {
            heading.ariaLevel = heading.tagName[1] - 1; // Swagger UI leaves the second level out
        }
        for (const [selector, name] of Object.entries(NAMES)) {
            for (const element of root.querySelectorAll(selector)) {
                if (!element.ariaLabel) element.ariaLabel = name(element);
            }
        }
        for (const text of root.querySelectorAll("pre:not([tabindex])")) {
            text.tabIndex = 0; // those that are long scroll
        }
    };
    new MutationObserver(mend).observe(root, { childList: true, subtree: true });

    SwaggerUIBundle({
        ...JSON.parse(document.getElementById("swagger-settings").textContent),
        dom_id: "#swagger-ui",
        presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
        plugins: [withoutLinksInButtons],
    });
})();
