// The smallest Lambda runtime for Node that runs a handler. AWS's `aws-lambda-ric` has to be compiled with cmake and does more, so this
// one cannot make the function slower.

import http from "node:http";
import { createRequire } from "node:module";

const [host, port] = process.env.AWS_LAMBDA_RUNTIME_API.split(":");
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

function call(method, path, body) {
  return new Promise((resolve, reject) => {
    const headers = body === undefined ? {} : { "content-length": Buffer.byteLength(body) };
    const options = { agent, host, port, method, headers, path: `/2018-06-01/runtime/${path}` };
    const request = http.request(options, (response) => {
      const chunks = [];
      response.on("data", (chunk) => chunks.push(chunk));
      response.on("end", () => resolve({ headers: response.headers, body: Buffer.concat(chunks) }));
      response.on("error", reject);
    });
    request.on("error", reject);
    request.end(body);
  });
}

const [file, name] = process.env._HANDLER.split(".");
const handler = createRequire(import.meta.url)(`${process.env.LAMBDA_TASK_ROOT}/${file}.cjs`)[name];
for (;;) {
  const { headers, body } = await call("GET", "invocation/next");
  const id = headers["lambda-runtime-aws-request-id"];
  try {
    const answer = await handler(JSON.parse(body), { awsRequestId: id });
    await call("POST", `invocation/${id}/response`, JSON.stringify(answer));
  } catch (error) {
    const report = { errorType: error.name, errorMessage: error.message };
    await call("POST", `invocation/${id}/error`, JSON.stringify(report));
  }
}
