SwaggerUIBundle({
  url: "swagger.yaml",
  dom_id: "#swagger-ui",
  deepLinking: true,
  // By default, Swagger UI sends the document to an online validator.
  validatorUrl: null,
});
