// What programs do with JetS3t, Debian's S3 client for Java, which signs in version 2: java Work.java BUCKET ENDPOINT ENDPOINT ENDPOINT, the key in the
// environment. What is written through one endpoint is read through another.
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.URL;
import java.util.Arrays;
import java.util.Date;
import java.util.Map;
import org.jets3t.service.Jets3tProperties;
import org.jets3t.service.ServiceException;
import org.jets3t.service.impl.rest.httpclient.RestS3Service;
import org.jets3t.service.model.MultipartUpload;
import org.jets3t.service.model.S3Object;
import org.jets3t.service.model.StorageObject;
import org.jets3t.service.security.AWSCredentials;

public class Work {
    static RestS3Service connect(String endpoint) throws Exception {
        URI where = URI.create(endpoint);
        Jets3tProperties properties = new Jets3tProperties();
        properties.setProperty("s3service.s3-endpoint", where.getHost());
        properties.setProperty("s3service.s3-endpoint-http-port", String.valueOf(where.getPort()));
        properties.setProperty("s3service.https-only", "false");
        properties.setProperty("s3service.disable-dns-buckets", "true");
        properties.setProperty("httpclient.retry-max", "0");
        AWSCredentials key = new AWSCredentials(System.getenv("AWS_ACCESS_KEY_ID"), System.getenv("AWS_SECRET_ACCESS_KEY"));
        return new RestS3Service(key, null, null, properties);
    }

    static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    static byte[] read(StorageObject object) throws Exception {
        return object.getDataInputStream().readAllBytes();
    }

    public static void main(String[] words) throws Exception {
        String bucket = words[0];
        RestS3Service one = connect(words[1]), two = connect(words[2]), three = connect(words[3]);

        S3Object small = new S3Object("small/ü +%.txt", "from Java".getBytes("UTF-8"));
        small.setContentType("text/own");
        small.addMetadata("made", "in Java");
        one.putObject(bucket, small);
        StorageObject head = two.getObjectDetails(bucket, small.getKey());
        check(head.getContentLength() == 9 && head.getContentType().equals("text/own"), "headers");
        check("in Java".equals(head.getMetadata("made")), "metadata");
        check(new String(read(three.getObject(bucket, small.getKey()))).equals("from Java"), "bytes");

        byte[] big = new byte[11 << 20];
        for (int at = 0; at < big.length; at++) {
            big[at] = (byte) (at * 31 >> 3);
        }
        MultipartUpload upload = one.multipartStartUpload(bucket, "big", Map.of("made", "in parts"));
        RestS3Service[] all = {one, two, three};
        for (int number = 1; number <= 3; number++) {
            byte[] part = Arrays.copyOfRange(big, (number - 1) * (5 << 20), Math.min(number * (5 << 20), big.length));
            all[number - 1].multipartUploadPart(upload, number, new S3Object("big", part));
        }
        check(two.multipartListParts(upload).size() == 3, "parts");
        three.multipartCompleteUpload(upload);
        StorageObject whole = one.getObject(bucket, "big");
        check(Arrays.equals(read(whole), big) && whole.getETag().endsWith("-3"), "an upload in parts");
        byte[] range = read(two.getObject(bucket, "big", null, null, new String[] {whole.getETag()}, null, 5000000L, 5999999L));
        check(Arrays.equals(range, Arrays.copyOfRange(big, 5000000, 6000000)), "a range");
        try {
            two.getObject(bucket, "big", null, null, new String[] {"0123456789abcdef"}, null, null, null);
            check(false, "a condition");
        } catch (ServiceException error) {
            check(error.getResponseCode() == 412, "412 but " + error);
        }
        try {
            two.getObject(bucket, "missing");
            check(false, "a missing key");
        } catch (ServiceException error) {
            check("NoSuchKey".equals(error.getErrorCode()), "NoSuchKey but " + error);
        }

        S3Object copy = new S3Object("copied");
        copy.setContentType("text/other");
        copy.addMetadata("made", "anew");
        two.copyObject(bucket, small.getKey(), bucket, copy, true);
        StorageObject copied = three.getObject(bucket, "copied");
        check("anew".equals(copied.getMetadata("made")) && new String(read(copied)).equals("from Java"), "a copy");

        String url = one.createSignedGetUrl(bucket, "copied", new Date(System.currentTimeMillis() + 600_000));
        HttpURLConnection asked = (HttpURLConnection) new URL(url).openConnection();
        check(new String(asked.getInputStream().readAllBytes()).equals("from Java"), "a URL");
        asked = (HttpURLConnection) new URL(url.replace("copied", "big")).openConnection();
        check(asked.getResponseCode() == 403, "a URL that was changed");

        for (int n = 0; n < 10; n++) {
            all[n % 3].putObject(bucket, new S3Object(String.format("pages/%02d", n), "x"));
        }
        check(three.listObjects(bucket, "pages/", null, 4).length == 10, "pages");
        check(Arrays.equals(one.listObjectsChunked(bucket, null, "/", 1000, null).getCommonPrefixes(), new String[] {"pages/", "small/"}), "prefixes");
        for (S3Object page : two.listObjects(bucket, "pages/", null)) {
            two.deleteObject(bucket, page.getKey());
        }
        one.deleteObject(bucket, "copied");
        for (StorageObject left : three.listObjects(bucket)) {
            System.out.println(left.getName());
        }
    }
}
