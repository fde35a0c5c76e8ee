// What programs do with Hadoop's file system over S3: java S3a BUCKET DIRECTORY ENDPOINT ENDPOINT ENDPOINT, the key in the environment; DIRECTORY is an
// empty one of this machine. What is made through one endpoint is seen through another.
import java.io.ByteArrayOutputStream;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.PrintStream;
import java.net.URI;
import java.nio.file.Files;
import java.util.Arrays;
import java.util.Set;
import java.util.TreeSet;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FileAlreadyExistsException;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.FsShell;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.RemoteIterator;
import org.apache.hadoop.util.ToolRunner;

public class S3a {
    static Configuration configure(String endpoint) {
        Configuration settings = new Configuration();
        settings.set("fs.s3a.endpoint", endpoint);
        settings.set("fs.s3a.path.style.access", "true");
        settings.set("fs.s3a.multipart.size", "5M");
        settings.set("fs.s3a.multipart.threshold", "5M");
        settings.set("fs.s3a.attempts.maximum", "1");
        settings.set("fs.s3a.retry.limit", "1");
        settings.set("fs.s3a.impl.disable.cache", "true"); // each configuration keeps its endpoint
        return settings;
    }

    static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    /** A command of the shell; what it printed. */
    static String shell(Configuration settings, int expected, String... words) throws Exception {
        PrintStream terminal = System.out;
        ByteArrayOutputStream printed = new ByteArrayOutputStream();
        System.setOut(new PrintStream(printed, true, "UTF-8"));
        try {
            int code = ToolRunner.run(settings, new FsShell(), words);
            check(code == expected, String.join(" ", words) + " ended with " + code);
        } finally {
            System.setOut(terminal);
        }
        return printed.toString("UTF-8");
    }

    /** All paths below one, directories with a slash: found by entering each. */
    static Set<String> tree(FileSystem fs, Path top) throws IOException {
        Set<String> found = new TreeSet<>();
        for (FileStatus each : fs.listStatus(top)) {
            String name = each.getPath().getName();
            found.add(each.isDirectory() ? name + "/" : name);
            if (each.isDirectory()) {
                tree(fs, each.getPath()).forEach(below -> found.add(name + "/" + below));
            }
        }
        return found;
    }

    static Set<String> files(FileSystem fs, Path top) throws IOException {
        Set<String> found = new TreeSet<>();
        RemoteIterator<? extends FileStatus> all = fs.listFiles(top, true);
        while (all.hasNext()) {
            found.add(top.toUri().relativize(all.next().getPath().toUri()).getPath());
        }
        return found;
    }

    static void shells(String bucket, java.nio.file.Path here, Configuration[] all) throws Exception {
        String top = "s3a://" + bucket + "/shell";
        byte[] big = new byte[12 << 20];
        for (int at = 0; at < big.length; at++) {
            big[at] = (byte) (at * 31 >> 3);
        }
        Files.createDirectories(here.resolve("tree/sub/deep"));
        Files.writeString(here.resolve("tree/a"), "a");
        Files.writeString(here.resolve("tree/sub/ü +%"), "odd");
        Files.write(here.resolve("tree/sub/deep/big"), big);
        Set<String> whole = Set.of("a", "sub/", "sub/ü +%", "sub/deep/", "sub/deep/big");

        shell(all[0], 0, "-mkdir", "-p", top + "/one/two");
        shell(all[0], 0, "-put", here + "/tree", top + "/one/");
        FileSystem two = FileSystem.get(URI.create(top), all[1]), three = FileSystem.get(URI.create(top), all[2]);
        check(tree(two, new Path(top + "/one/tree")).equals(whole), "what was put");
        shell(all[2], 0, "-mv", top + "/one/tree", top + "/one/moved");
        check(tree(two, new Path(top + "/one/moved")).equals(whole), "what was renamed");
        check(shell(all[0], 0, "-ls", "-R", top).lines().noneMatch(line -> line.contains("/one/tree")), "the former name");
        shell(all[1], 1, "-test", "-e", top + "/one/tree");
        shell(all[1], 0, "-get", top + "/one/moved/sub/deep/big", here + "/back");
        check(Arrays.equals(Files.readAllBytes(here.resolve("back")), big), "what was got");
        shell(all[0], 0, "-cp", top + "/one/moved", top + "/one/copy");
        check(shell(all[2], 0, "-cat", top + "/one/copy/sub/ü +%").equals("odd"), "a copy");
        check(shell(all[1], 0, "-du", "-s", top + "/one").startsWith(2 * (big.length + 4) + " "), "sizes");
        shell(all[1], 0, "-rm", "-r", "-skipTrash", top + "/one/moved");
        check(tree(two, new Path(top + "/one")).equals(tree(three, new Path(top + "/one"))), "what is left");
        shell(all[2], 1, "-test", "-e", top + "/one/moved/sub/deep");
        shell(all[0], 0, "-touchz", top + "/one/zero");
        shell(all[1], 0, "-test", "-z", top + "/one/zero");
        shell(all[1], 1, "-rmdir", top + "/one");
        shell(all[1], 0, "-rmdir", top + "/one/two");
        shell(all[0], 0, "-rm", "-r", "-skipTrash", top);
        check(!two.exists(new Path(top)), "the whole is gone");
    }

    static void calls(String bucket, Configuration[] all) throws Exception {
        Path top = new Path("s3a://" + bucket + "/calls");
        FileSystem one = FileSystem.get(top.toUri(), all[0]), two = FileSystem.get(top.toUri(), all[1]);
        Path file = new Path(top, "a/b/file"), other = new Path(top, "other");
        byte[] piece = new byte[1 << 20];
        try (FSDataOutputStream out = one.create(file)) {
            for (int n = 0; n < 11; n++) {
                Arrays.fill(piece, (byte) n);
                out.write(piece);
            }
        }
        FileStatus told = two.getFileStatus(file);
        check(told.getLen() == 11 << 20 && !told.isDirectory(), "an upload in parts");
        try (FSDataInputStream in = two.open(file)) {
            byte[] found = new byte[2 << 20];
            in.readFully(7 << 20, found);
            check(found[0] == 7 && found[found.length - 1] == 8, "a read by position");
            in.seek(3 << 20);
            check(in.read() == 3, "a seek");
            in.seek(1 << 20);
            check(in.read() == 1, "a seek back");
        }
        check(one.rename(new Path(top, "a"), new Path(top, "c")), "a rename");
        check(!two.exists(new Path(top, "a")) && !two.exists(new Path(top, "a/b")), "the former directories");
        check(two.mkdirs(other) && one.rename(new Path(top, "c"), other), "a rename to an empty directory");
        check(files(two, top).equals(Set.of("other/b/file")), "it takes its place: " + files(two, top));
        check(!one.delete(new Path(top, "missing"), true), "deleting what is not there");
        try {
            two.delete(other, false);
            check(false, "a directory that holds something was deleted");
        } catch (IOException expected) {
            check(one.exists(other), "a directory that holds something");
        }
        try {
            two.create(new Path(other, "b/file"), false).close();
            check(false, "a file was overwritten");
        } catch (FileAlreadyExistsException expected) {
            check(one.getFileStatus(new Path(other, "b/file")).getLen() == 11 << 20, "a file that is there");
        }
        check(one.delete(new Path(other, "b/file"), false), "deleting a file");
        check(tree(two, other).equals(Set.of("b/")), "its directory stays for s3a: " + tree(two, other));
        check(one.delete(top, true), "deleting all");
        try {
            two.listStatus(top);
            check(false, "what was deleted is listed");
        } catch (FileNotFoundException expected) {
            check(!one.exists(top), "what was deleted");
        }
    }

    public static void main(String[] words) throws Exception {
        Configuration[] all = {configure(words[2]), configure(words[3]), configure(words[4])};
        shells(words[0], java.nio.file.Path.of(words[1]), all);
        calls(words[0], all);
        System.exit(0); // without waiting for the threads of its many file systems
    }
}
