// What programs do with the AWS SDK for JavaScript: node work.mjs BUCKET ENDPOINT ENDPOINT ENDPOINT, the key in the environment.
// What is written through one endpoint is read through another.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { Readable } from "node:stream";
import * as sdk from "@aws-sdk/client-s3";
import { Upload } from "@aws-sdk/lib-storage";
import { getSignedUrl } from "@aws-sdk/s3-request-presigner";

const [Bucket, ...endpoints] = process.argv.slice(2);
const [one, two, three] = endpoints.map(
  (endpoint) => new sdk.S3Client({ endpoint, region: "us-east-1", forcePathStyle: true, maxAttempts: 1 }),
);
const bytes = async (answer) => Buffer.from(await answer.Body.transformToByteArray());
const sha256 = (data) => createHash("sha256").update(data).digest("hex");

// a small object, its headers and metadata
const put = await one.send(
  new sdk.PutObjectCommand({ Bucket, Key: "small/ü +%.txt", Body: "from Node", ContentType: "text/own", Metadata: { made: "in Node" }, Tagging: "a=b" }),
);
const head = await two.send(new sdk.HeadObjectCommand({ Bucket, Key: "small/ü +%.txt" }));
assert.deepEqual([head.ContentLength, head.ContentType, head.Metadata, head.ETag], [9, "text/own", { made: "in Node" }, put.ETag]);
const got = await three.send(new sdk.GetObjectCommand({ Bucket, Key: "small/ü +%.txt", ChecksumMode: "ENABLED" }));
assert.equal((await bytes(got)).toString(), "from Node");
assert.ok(got.ChecksumCRC32);
const tags = await two.send(new sdk.GetObjectTaggingCommand({ Bucket, Key: "small/ü +%.txt" }));
assert.deepEqual(tags.TagSet, [{ Key: "a", Value: "b" }]);

// a stream of unknown length, in parts
const big = Buffer.alloc(12 << 20).map((_, at) => (at * 31) >> 3);
const pieces = async function* () {
  for (let at = 0; at < big.length; at += 1 << 20) yield big.subarray(at, at + (1 << 20));
};
const upload = new Upload({ client: one, params: { Bucket, Key: "big", Body: Readable.from(pieces()) }, partSize: 5 << 20, queueSize: 3 });
await upload.done();
const whole = await two.send(new sdk.GetObjectCommand({ Bucket, Key: "big" }));
assert.equal(sha256(await bytes(whole)), sha256(big));
assert.match(whole.ETag, /-3"$/);
const range = await three.send(new sdk.GetObjectCommand({ Bucket, Key: "big", Range: "bytes=5000000-5999999", IfMatch: whole.ETag }));
assert.equal(range.ContentRange, `bytes 5000000-5999999/${big.length}`);
assert.deepEqual(await bytes(range), big.subarray(5000000, 6000000));
const part = await three.send(new sdk.GetObjectCommand({ Bucket, Key: "big", PartNumber: 3 }));
assert.deepEqual([part.PartsCount, (await bytes(part)).length], [3, 2 << 20]);

// conditions
const Key = "conditional";
const first = await one.send(new sdk.PutObjectCommand({ Bucket, Key, Body: "1", IfNoneMatch: "*" }));
await assert.rejects(two.send(new sdk.PutObjectCommand({ Bucket, Key, Body: "2", IfNoneMatch: "*" })), { name: "PreconditionFailed" });
await two.send(new sdk.PutObjectCommand({ Bucket, Key, Body: "2", IfMatch: first.ETag }));
await assert.rejects(three.send(new sdk.PutObjectCommand({ Bucket, Key, Body: "3", IfMatch: first.ETag })), { name: "PreconditionFailed" });
const now = await one.send(new sdk.HeadObjectCommand({ Bucket, Key }));
await assert.rejects(one.send(new sdk.GetObjectCommand({ Bucket, Key, IfNoneMatch: now.ETag })), (error) => error.$metadata.httpStatusCode === 304);
await assert.rejects(one.send(new sdk.GetObjectCommand({ Bucket, Key: "missing" })), sdk.NoSuchKey);
await assert.rejects(one.send(new sdk.HeadObjectCommand({ Bucket, Key: "missing" })), sdk.NotFound);

// copies
await two.send(new sdk.CopyObjectCommand({ Bucket, Key: "copied", CopySource: `${Bucket}/small/${encodeURIComponent("ü +%.txt")}` }));
const renamed = { MetadataDirective: "REPLACE", Metadata: { made: "anew" }, ContentType: "text/other" };
await two.send(new sdk.CopyObjectCommand({ Bucket, Key: "copied", CopySource: `${Bucket}/copied`, ...renamed }));
const copied = await one.send(new sdk.GetObjectCommand({ Bucket, Key: "copied" }));
assert.deepEqual([copied.Metadata, copied.ContentType, (await bytes(copied)).toString()], [{ made: "anew" }, "text/other", "from Node"]);

// URLs for somebody without a key
const putUrl = await getSignedUrl(one, new sdk.PutObjectCommand({ Bucket, Key: "by-url", Metadata: { made: "by URL" } }), { expiresIn: 60 });
assert.ok(putUrl.includes("x-amz-meta-made=") && putUrl.includes("x-amz-checksum-crc32=AAAAAA"), putUrl); // of no bytes
assert.equal((await fetch(putUrl, { method: "PUT", body: "through a URL" })).status, 200);
const getUrl = await getSignedUrl(two, new sdk.GetObjectCommand({ Bucket, Key: "by-url" }), { expiresIn: 60 });
assert.equal(await (await fetch(getUrl)).text(), "through a URL");
assert.deepEqual((await two.send(new sdk.HeadObjectCommand({ Bucket, Key: "by-url" }))).Metadata, { made: "by URL" });
assert.equal((await fetch(getUrl.replace("by-url", "big"))).status, 403);

// pages, and deletions of many
const names = Array.from({ length: 10 }, (_, n) => `pages/${String(n).padStart(2, "0")}`);
await Promise.all(names.map((name, n) => [one, two, three][n % 3].send(new sdk.PutObjectCommand({ Bucket, Key: name, Body: name }))));
const seen = [];
for await (const page of sdk.paginateListObjectsV2({ client: three, pageSize: 4 }, { Bucket, Prefix: "pages/" })) seen.push(...page.Contents.map((each) => each.Key));
assert.deepEqual(seen, names);
const tops = await one.send(new sdk.ListObjectsV2Command({ Bucket, Delimiter: "/" }));
assert.deepEqual(tops.CommonPrefixes.map((each) => each.Prefix), ["pages/", "small/"]);
const gone = await two.send(new sdk.DeleteObjectsCommand({ Bucket, Delete: { Objects: names.map((name) => ({ Key: name })) } }));
assert.deepEqual([gone.Deleted.length, gone.Errors], [10, undefined]);
await one.send(new sdk.DeleteObjectCommand({ Bucket, Key: "conditional" }));
const left = await three.send(new sdk.ListObjectsV2Command({ Bucket }));
console.log(JSON.stringify({ left: left.Contents.map((each) => each.Key), big: sha256(big) }));
