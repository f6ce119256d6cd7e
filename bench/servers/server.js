// The application of the stopping lab for Node: `node server.js http|express none|close`.
// none: no handler for SIGTERM. close: server.close(), which since Node 19 closes idle connections
// as closeIdleConnections() does, then exit.
"use strict";
const fs = require("fs");
const http = require("http");
const [kind, drain] = process.argv.slice(2);
const milliseconds = 1000 * (process.env.SECONDS || 0.05);

function carryOut(request, response) {
  const begin = () => {
    fs.appendFileSync(process.env.CARRIED, request.url + "\n");
    setTimeout(() => {
      response.setHeader("Content-Length", 3);
      response.end("ok\n");
    }, milliseconds);
  };
  // An eager application begins without having read the body.
  if (process.env.EAGER) begin();
  else request.resume().on("end", begin);
}

let server;
if (kind === "express") {
  const app = require("express")();
  app.use(carryOut);
  server = app.listen(process.env.PORT, "127.0.0.1");
} else {
  server = http.createServer(carryOut).listen(process.env.PORT, "127.0.0.1");
}
if (drain === "close") {
  process.on("SIGTERM", () => server.close(() => process.exit(0)));
}
