// Swagger UI on this server's own OpenAPI document.
"use strict";

const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger",
  deepLinking: true,
  displayRequestDuration: true,
  persistAuthorization: false, // an operator's token is not left in the browser
  validatorUrl: null, // no other host is asked
});
