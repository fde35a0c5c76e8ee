// What programs do with the AWS SDK for Java, version 1: java AwsSdk BUCKET ENDPOINT ENDPOINT ENDPOINT, the key in the environment. What is written
// through one endpoint is read through another.
import com.amazonaws.ClientConfiguration;
import com.amazonaws.HttpMethod;
import com.amazonaws.client.builder.AwsClientBuilder.EndpointConfiguration;
import com.amazonaws.services.s3.AmazonS3;
import com.amazonaws.services.s3.AmazonS3ClientBuilder;
import com.amazonaws.services.s3.model.AmazonS3Exception;
import com.amazonaws.services.s3.model.BucketCrossOriginConfiguration;
import com.amazonaws.services.s3.model.BucketTaggingConfiguration;
import com.amazonaws.services.s3.model.CORSRule;
import com.amazonaws.services.s3.model.CopyObjectRequest;
import com.amazonaws.services.s3.model.DeleteObjectsRequest;
import com.amazonaws.services.s3.model.GetObjectRequest;
import com.amazonaws.services.s3.model.GetObjectTaggingRequest;
import com.amazonaws.services.s3.model.ListObjectsRequest;
import com.amazonaws.services.s3.model.ListObjectsV2Request;
import com.amazonaws.services.s3.model.ListObjectsV2Result;
import com.amazonaws.services.s3.model.ObjectListing;
import com.amazonaws.services.s3.model.ObjectMetadata;
import com.amazonaws.services.s3.model.ObjectTagging;
import com.amazonaws.services.s3.model.PutObjectRequest;
import com.amazonaws.services.s3.model.S3Object;
import com.amazonaws.services.s3.model.S3ObjectSummary;
import com.amazonaws.services.s3.model.SetObjectTaggingRequest;
import com.amazonaws.services.s3.model.Tag;
import com.amazonaws.services.s3.model.TagSet;
import com.amazonaws.services.s3.transfer.TransferManager;
import com.amazonaws.services.s3.transfer.TransferManagerBuilder;
import java.io.ByteArrayInputStream;
import java.io.File;
import java.net.HttpURLConnection;
import java.net.URL;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Date;
import java.util.List;
import java.util.Map;

public class AwsSdk {
    static AmazonS3 connect(String endpoint) {
        return AmazonS3ClientBuilder.standard()
                .withEndpointConfiguration(new EndpointConfiguration(endpoint, "us-east-1"))
                .withPathStyleAccessEnabled(true)
                .withClientConfiguration(new ClientConfiguration().withMaxErrorRetry(0))
                .build();
    }

    static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    static void refused(int status, String code, Runnable call) {
        try {
            call.run();
        } catch (AmazonS3Exception error) {
            check(error.getStatusCode() == status && code.equals(error.getErrorCode()), status + " " + code + " but " + error);
            return;
        }
        throw new AssertionError("was not refused with " + code);
    }

    static byte[] read(S3Object object) throws Exception {
        try (object) {
            return object.getObjectContent().readAllBytes();
        }
    }

    static ObjectMetadata metadata(long length, String made) {
        ObjectMetadata told = new ObjectMetadata();
        told.setContentLength(length);
        told.setContentType("text/own");
        told.addUserMetadata("made", made);
        return told;
    }

    static void putsAndGets(String bucket, AmazonS3 one, AmazonS3 two, AmazonS3 three) throws Exception {
        String key = "small/ü +%.txt";
        byte[] bytes = "from Java".getBytes("UTF-8");
        PutObjectRequest put = new PutObjectRequest(bucket, key, new ByteArrayInputStream(bytes), metadata(9, "in Java"));
        String etag = one.putObject(put.withTagging(new ObjectTagging(List.of(new Tag("kind", "ü +&="))))).getETag();
        check(etag.equals(two.getObjectMetadata(bucket, key).getETag()), "an ETag");
        ObjectMetadata head = two.getObjectMetadata(bucket, key);
        check(head.getContentLength() == 9 && head.getContentType().equals("text/own"), "headers");
        check("in Java".equals(head.getUserMetaDataOf("made")), "metadata");
        check(new String(read(three.getObject(bucket, key))).equals("from Java"), "bytes");
        check(two.getObjectTagging(new GetObjectTaggingRequest(bucket, key)).getTagSet().get(0).getValue().equals("ü +&="), "a tag");
        two.setObjectTagging(new SetObjectTaggingRequest(bucket, key, new ObjectTagging(List.of(new Tag("a", "1"), new Tag("b", "")))));
        check(three.getObjectTagging(new GetObjectTaggingRequest(bucket, key)).getTagSet().size() == 2, "tags");
        one.putObject(bucket, "stale", "text as a string");
        check(two.getObjectAsString(bucket, "stale").equals("text as a string"), "a string");
        one.putObject(bucket, "empty", "");
        check(two.getObjectMetadata(bucket, "empty").getContentLength() == 0, "nothing");

        check(new String(read(two.getObject(new GetObjectRequest(bucket, key).withRange(5)))).equals("Java"), "an open range");
        check(new String(read(two.getObject(new GetObjectRequest(bucket, key).withRange(0, 3)))).equals("from"), "a range");
        refused(416, "InvalidRange", () -> two.getObject(new GetObjectRequest(bucket, key).withRange(9)));
        check(two.getObject(new GetObjectRequest(bucket, key).withMatchingETagConstraint("0123456789abcdef")) == null, "If-Match");
        check(two.getObject(new GetObjectRequest(bucket, key).withNonmatchingETagConstraint(etag)) == null, "If-None-Match");
        check(two.getObject(new GetObjectRequest(bucket, key).withModifiedSinceConstraint(new Date())) == null, "If-Modified-Since");
        refused(404, "NoSuchKey", () -> two.getObject(bucket, "missing"));
        refused(404, "404 Not Found", () -> two.getObjectMetadata(bucket, "missing"));
        refused(404, "NoSuchBucket", () -> two.getObject("no-such-bucket", "missing"));
        check(one.doesObjectExist(bucket, "empty") && !two.doesObjectExist(bucket, "missing"), "existence");

        one.copyObject(new CopyObjectRequest(bucket, key, bucket, "copied").withNewObjectMetadata(metadata(9, "anew")));
        ObjectMetadata copied = three.getObjectMetadata(bucket, "copied");
        check("anew".equals(copied.getUserMetaDataOf("made")) && copied.getETag().equals(etag), "a copy");
        check(one.copyObject(new CopyObjectRequest(bucket, key, bucket, "never").withMatchingETagConstraint("0123")) == null, "a condition");
        two.copyObject(bucket, key, bucket, "small/also");
        check(one.getObjectMetadata(bucket, "small/also").getUserMetaDataOf("made").equals("in Java"), "a copy with its metadata");

        URL url = one.generatePresignedUrl(bucket, "copied", new Date(System.currentTimeMillis() + 600_000));
        check(new String(url.openStream().readAllBytes()).equals("from Java"), "a URL");
        HttpURLConnection asked = (HttpURLConnection) new URL(url.toString().replace("copied", "stale")).openConnection();
        check(asked.getResponseCode() == 403, "a URL that was changed");
        asked = (HttpURLConnection) one.generatePresignedUrl(bucket, "by-url", null, HttpMethod.PUT).openConnection();
        asked.setRequestMethod("PUT");
        asked.setDoOutput(true);
        asked.getOutputStream().write(bytes);
        check(asked.getResponseCode() == 200 && two.getObjectAsString(bucket, "by-url").equals("from Java"), "a PUT by a URL");
    }

    static void transfers(String bucket, AmazonS3 one, AmazonS3 two, AmazonS3 three) throws Exception {
        File big = File.createTempFile("big", ""), back = File.createTempFile("back", "");
        byte[] bytes = new byte[17 << 20];
        for (int at = 0; at < bytes.length; at++) {
            bytes[at] = (byte) (at * 31 >> 3);
        }
        Files.write(big.toPath(), bytes);
        TransferManager up = transfer(one), down = transfer(two);
        up.upload(new PutObjectRequest(bucket, "big", big).withMetadata(metadata(bytes.length, "in parts"))).waitForCompletion();
        ObjectMetadata head = three.getObjectMetadata(bucket, "big");
        check(head.getETag().endsWith("-4") && head.getUserMetaDataOf("made").equals("in parts"), "an upload in parts");
        down.download(bucket, "big", back).waitForCompletion();
        check(Arrays.equals(Files.readAllBytes(back.toPath()), bytes), "a download in parts");
        down.copy(bucket, "big", bucket, "big-copy").waitForCompletion();
        check(Arrays.equals(read(three.getObject(bucket, "big-copy")), bytes), "a copy in parts");
        check(Arrays.equals(read(three.getObject(new GetObjectRequest(bucket, "big").withPartNumber(2))), Arrays.copyOfRange(bytes, 5 << 20, 10 << 20)), "a part");

        ObjectMetadata unknown = metadata(bytes.length, "by a stream");
        up.upload(bucket, "stream", new ByteArrayInputStream(bytes), unknown).waitForCompletion();
        check(Arrays.equals(read(two.getObject(bucket, "stream")), bytes), "a stream");

        File tree = Files.createTempDirectory("tree").toFile(), again = Files.createTempDirectory("again").toFile();
        for (String name : new String[] {"a", "sub/b", "sub/deep/c"}) {
            File file = new File(tree, name);
            file.getParentFile().mkdirs();
            Files.writeString(file.toPath(), name);
        }
        up.uploadDirectory(bucket, "tree", tree, true).waitForCompletion();
        down.downloadDirectory(bucket, "tree", again).waitForCompletion();
        check(Files.readString(new File(again, "tree/sub/deep/c").toPath()).equals("sub/deep/c"), "a directory");
        up.abortMultipartUploads(bucket, new Date());
        up.shutdownNow(false);
        down.shutdownNow(false);
    }

    static TransferManager transfer(AmazonS3 client) {
        return TransferManagerBuilder.standard()
                .withS3Client(client)
                .withMinimumUploadPartSize(5L << 20)
                .withMultipartUploadThreshold(6L << 20)
                .withMultipartCopyThreshold(6L << 20)
                .withMultipartCopyPartSize(6L << 20)
                .build();
    }

    static void listsAndDeletes(String bucket, AmazonS3[] all) {
        List<String> names = new ArrayList<>(), told = new ArrayList<>(), old = new ArrayList<>();
        for (int n = 0; n < 10; n++) {
            names.add(String.format("pages/%02d ü+&<", n));
            all[n % 3].putObject(bucket, names.get(n), "x");
        }
        ListObjectsV2Request asked = new ListObjectsV2Request().withBucketName(bucket).withPrefix("pages/").withMaxKeys(4);
        ListObjectsV2Result page;
        do {
            page = all[asked.getContinuationToken() == null ? 0 : 1].listObjectsV2(asked);
            page.getObjectSummaries().forEach(each -> told.add(each.getKey()));
            asked.setContinuationToken(page.getNextContinuationToken());
        } while (page.isTruncated());
        check(told.equals(names), "pages of version 2: " + told);
        ObjectListing listing = all[1].listObjects(new ListObjectsRequest(bucket, "pages/", null, null, 4));
        listing.getObjectSummaries().forEach(each -> old.add(each.getKey()));
        while (listing.isTruncated()) {
            listing = all[2].listNextBatchOfObjects(listing);
            listing.getObjectSummaries().forEach(each -> old.add(each.getKey()));
        }
        check(old.equals(names), "pages of version 1: " + old);
        List<String> prefixes = all[0].listObjects(new ListObjectsRequest(bucket, null, null, "/", null)).getCommonPrefixes();
        check(prefixes.equals(List.of("pages/", "small/", "tree/")), "prefixes: " + prefixes);
        DeleteObjectsRequest many = new DeleteObjectsRequest(bucket).withKeys(names.toArray(new String[0]));
        check(all[1].deleteObjects(many).getDeletedObjects().size() == 10, "deleting many");
        all[0].deleteObject(bucket, "stale");
        all[0].deleteObject(bucket, "never-was");
    }

    static void buckets(String bucket, AmazonS3 one, AmazonS3 two) {
        String other = bucket + "-made";
        one.createBucket(other);
        check(two.doesBucketExistV2(other) && !two.doesBucketExistV2(bucket + "-not"), "existence of a bucket");
        check(two.listBuckets().stream().anyMatch(each -> each.getName().equals(other)), "buckets");
        two.getBucketLocation(other);
        two.getBucketAcl(other);
        one.setBucketTaggingConfiguration(other, new BucketTaggingConfiguration(List.of(new TagSet(Map.of("team", "ü")))));
        check(two.getBucketTaggingConfiguration(other).getTagSet().getTag("team").equals("ü"), "tags of a bucket");
        CORSRule rule = new CORSRule().withAllowedOrigins(List.of("*")).withAllowedMethods(List.of(CORSRule.AllowedMethods.GET));
        one.setBucketCrossOriginConfiguration(other, new BucketCrossOriginConfiguration(List.of(rule)));
        check(two.getBucketCrossOriginConfiguration(other).getRules().size() == 1, "rules of a bucket");
        one.putObject(other, "x", "x");
        refused(409, "BucketNotEmpty", () -> two.deleteBucket(other));
        one.deleteObject(other, "x");
        two.deleteBucket(other);
        refused(404, "NoSuchBucket", () -> one.listObjectsV2(other));
    }

    public static void main(String[] words) throws Exception {
        String bucket = words[0];
        AmazonS3[] all = {connect(words[1]), connect(words[2]), connect(words[3])};
        putsAndGets(bucket, all[0], all[1], all[2]);
        transfers(bucket, all[0], all[1], all[2]);
        listsAndDeletes(bucket, all);
        buckets(bucket + "-" + System.currentTimeMillis() % 100000, all[0], all[1]);
        for (S3ObjectSummary left : all[2].listObjects(bucket).getObjectSummaries()) {
            System.out.println(left.getKey());
        }
    }
}
