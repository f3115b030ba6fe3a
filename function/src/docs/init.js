SwaggerUIBundle({
  url: "swagger.yaml",
  dom_id: "#swagger-ui",
  deepLinking: true,
  // The default asks a validator in the internet.
  validatorUrl: null,
});
