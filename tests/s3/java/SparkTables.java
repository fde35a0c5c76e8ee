// What Spark does with tables in S3: java SparkTables BUCKET ENDPOINT, the key in the environment. One table for each committer, written by all of them
// at a time; they are left for others to read.
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.mapreduce.OutputCommitter;
import org.apache.hadoop.mapreduce.TaskAttemptContext;
import org.apache.hadoop.mapreduce.lib.output.PathOutputCommitter;
import org.apache.hadoop.mapreduce.lib.output.PathOutputCommitterFactory;
import org.apache.spark.internal.io.HadoopMapReduceCommitProtocol;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.functions;
import scala.Option;

public class SparkTables {
    /** Has s3a choose the committer, as `spark-hadoop-cloud` does, which is in no package here. */
    public static class Committing extends HadoopMapReduceCommitProtocol {
        private final String path;
        private transient PathOutputCommitter committer;

        public Committing(String job, String path, boolean dynamic) {
            super(job, path, false);
            this.path = path;
        }

        @Override
        public OutputCommitter setupCommitter(TaskAttemptContext context) {
            Path into = new Path(path);
            try {
                committer = PathOutputCommitterFactory.createCommitter(into, context);
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
            return committer;
        }

        @Override
        public String newTaskTempFile(TaskAttemptContext context, Option<String> directory, String extension) {
            try {
                Path work = committer.getWorkPath();
                Path into = directory.isDefined() ? new Path(work, directory.get()) : work;
                return new Path(into, getFilename(context, extension)).toString();
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }
    }

    static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    static Dataset<Row> rows(SparkSession spark, long from, long to) {
        return spark.range(from, to, 1, 2)
                .toDF("n")
                .withColumn("part", functions.col("n").mod(3))
                .withColumn("text", functions.sha2(functions.col("n").cast("string"), 512));
    }

    /** The table holds the numbers up to one, each once, and nothing is left of the jobs that wrote it. */
    static void compare(SparkSession spark, String table, long to) throws IOException {
        Row told = spark.read().parquet(table).agg(functions.count("*"), functions.sum("n"), functions.countDistinct("n")).first();
        check(told.getLong(0) == to && told.getLong(1) == to * (to - 1) / 2 && told.getLong(2) == to, table + ": " + told);
        Path path = new Path(table);
        for (FileStatus each : path.getFileSystem(spark.sparkContext().hadoopConfiguration()).listStatus(path)) {
            String name = each.getPath().getName();
            check(name.equals("_SUCCESS") || name.startsWith("part"), "left in " + table + ": " + name);
        }
    }

    static Void work(SparkSession spark, String top, String committer) throws IOException {
        String table = top + "/" + committer, wide = top + "/" + committer + "-wide";
        if (committer.startsWith("v")) {
            spark.conf().set("mapreduce.fileoutputcommitter.algorithm.version", committer.substring(1));
        } else {
            spark.conf().set("mapreduce.outputcommitter.factory.scheme.s3a", "org.apache.hadoop.fs.s3a.commit.S3ACommitterFactory");
            spark.conf().set("fs.s3a.committer.name", committer);
            spark.conf().set("fs.s3a.committer.staging.conflict-mode", "append");
            spark.conf().set("spark.sql.sources.commitProtocolClass", Committing.class.getName());
        }
        rows(spark, 0, 100).write().partitionBy("part").parquet(table);
        compare(spark, table, 100);
        rows(spark, 0, 3000).write().mode("overwrite").partitionBy("part").parquet(table);
        compare(spark, table, 3000);
        rows(spark, 3000, 6000).write().mode("append").partitionBy("part").parquet(table);
        compare(spark, table, 6000);
        check(spark.read().parquet(table).filter("part = 1 and n between 2990 and 3009").count() == 6, "rows of one partition");
        try {
            Dataset<Row> broken = rows(spark, 6000, 9000).withColumn("text", functions.expr("if(n = 8999, raise_error('on purpose'), text)"));
            broken.coalesce(1).write().mode("append").partitionBy("part").parquet(table);
            check(false, "a job that fails did not");
        } catch (Exception expected) {
            check(expected.getMessage().contains("Job aborted"), "a job that fails: " + expected);
        }
        compare(spark, table, 6000);
        if (!committer.equals("partitioned")) { // it takes tables with partitions only
            rows(spark, 0, 100_000).coalesce(1).write().parquet(wide);
            compare(spark, wide, 100_000);
            check(spark.read().parquet(wide).filter("n = 77777").select("text").count() == 1, "a row of a large file");
        }
        return null;
    }

    public static void main(String[] words) throws Exception {
        String top = "s3a://" + words[0] + "/tables";
        SparkSession spark = SparkSession.builder()
                .master("local[4]")
                .config("spark.ui.enabled", "false")
                .config("spark.driver.host", "127.0.0.1")
                .config("spark.driver.bindAddress", "127.0.0.1")
                .config("spark.sql.shuffle.partitions", "2")
                .config("spark.hadoop.fs.s3a.endpoint", words[1])
                .config("spark.hadoop.fs.s3a.path.style.access", "true")
                .config("spark.hadoop.fs.s3a.multipart.size", "5M")
                .config("spark.hadoop.fs.s3a.multipart.threshold", "5M")
                .config("spark.hadoop.fs.s3a.committer.magic.enabled", "true")
                .getOrCreate();
        spark.sparkContext().setLogLevel("ERROR");
        List<String> committers = List.of("v1", "v2", "magic", "directory", "partitioned");
        ExecutorService threads = Executors.newFixedThreadPool(committers.size());
        List<Future<Void>> all = new ArrayList<>();
        for (String each : committers) {
            all.add(threads.submit(() -> work(spark.newSession(), top, each)));
        }
        threads.shutdown();
        try (spark) {
            for (Future<Void> each : all) {
                each.get();
            }
        }
    }
}
