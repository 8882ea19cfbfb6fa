// A life as AWS's SDK for JavaScript drives it. `node program.mjs create|live BASE_ARN ROLE_ARN`; where the service is and
// who asks is in the environment. The last line it prints is JSON.
import assert from "node:assert/strict";
import {
  CreateMicrovmAuthTokenCommand,
  CreateMicrovmImageCommand,
  GetMicrovmCommand,
  GetMicrovmImageCommand,
  LambdaMicrovmsClient,
  ListTagsCommand,
  RunMicrovmCommand,
  SuspendMicrovmCommand,
  TagResourceCommand,
  TerminateMicrovmCommand,
  UpdateMicrovmImageVersionCommand,
  paginateListMicrovms,
} from "@aws-sdk/client-lambda-microvms";

const [what, base, role] = process.argv.slice(2);
const client = new LambdaMicrovmsClient({ maxAttempts: 1 });
const ask = (command) => client.send(command);
const settings = { baseImageArn: base, buildRoleArn: role, codeArtifact: { uri: "s3://code/app.zip" } };

async function refused(name, status, command) {
  await assert.rejects(ask(command), (error) => error.name === name && error.$metadata.httpStatusCode === status);
}

async function create() {
  const made = await ask(new CreateMicrovmImageCommand({ name: "from-js", tags: { team: "blue" }, ...settings }));
  assert.equal(made.state, "CREATING");
  assert.equal(made.$metadata.httpStatusCode, 201);
  assert.match(made.$metadata.requestId, /^[0-9a-f-]{36}$/);
  await refused("ValidationException", 400, new CreateMicrovmImageCommand({ name: "from-js", ...settings }));
  return made.imageArn;
}

async function live() {
  const image = await ask(new GetMicrovmImageCommand({ imageIdentifier: base }));
  assert.equal(image.state, "CREATED");
  assert.ok(image.createdAt instanceof Date);
  await ask(new TagResourceCommand({ Resource: base, Tags: { cost: "42" } }));
  assert.deepEqual((await ask(new ListTagsCommand({ Resource: base }))).Tags, { team: "blue", cost: "42" });
  const asked = { imageIdentifier: base, clientToken: "js-1", maximumDurationInSeconds: 600 };
  const vm = await ask(new RunMicrovmCommand(asked));
  assert.equal((await ask(new RunMicrovmCommand(asked))).microvmId, vm.microvmId);
  await refused("ConflictException", 409, new RunMicrovmCommand({ ...asked, maximumDurationInSeconds: 60 }));
  await ask(new RunMicrovmCommand({ imageIdentifier: base }));
  const microvmIdentifier = vm.microvmId;
  const token = await ask(
    new CreateMicrovmAuthTokenCommand({ microvmIdentifier, expirationInMinutes: 5, allowedPorts: [{ port: 8080 }] }),
  );
  assert.deepEqual(Object.keys(token.authToken), ["X-aws-proxy-auth"]);
  await refused("ConflictException", 409, new SuspendMicrovmCommand({ microvmIdentifier }));
  const status = { imageIdentifier: base, imageVersion: "1.0", status: "INACTIVE" };
  assert.equal((await ask(new UpdateMicrovmImageVersionCommand(status))).status, "INACTIVE");
  await refused("ResourceNotFoundException", 404, new RunMicrovmCommand({ imageIdentifier: base }));
  await ask(new TerminateMicrovmCommand({ microvmIdentifier }));
  assert.equal((await ask(new GetMicrovmCommand({ microvmIdentifier }))).state, "TERMINATING");
  const seen = [];
  for await (const page of paginateListMicrovms({ client, pageSize: 1 }, {})) {
    seen.push(...page.items.map((item) => item.microvmId));
  }
  assert.equal(new Set(seen).size, 2);
  return seen;
}

console.log(JSON.stringify(await (what === "create" ? create() : live())));
