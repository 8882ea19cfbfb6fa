import com.sun.net.httpserver.HttpServer;
import java.io.FileInputStream;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.security.DrbgParameters;
import java.security.GeneralSecurityException;
import java.security.SecureRandom;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.SplittableRandom;
import java.util.UUID;
import java.util.concurrent.Executor;
import java.util.concurrent.Executors;
import java.util.concurrent.ThreadLocalRandom;
import java.util.random.RandomGenerator;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/** A server of Java whose generators were in use when its image was frozen: each answer has new random values. */
public class Draws {
    private final SecureRandom secure = new SecureRandom();
    private final SecureRandom strong = SecureRandom.getInstanceStrong();
    private final SecureRandom drbg = SecureRandom.getInstance("DRBG");
    private final SecureRandom sha1 = SecureRandom.getInstance("SHA1PRNG");
    private final Random random = new Random();
    private final SplittableRandom splittable = new SplittableRandom();
    private final RandomGenerator generator = RandomGenerator.getDefault();

    Draws() throws GeneralSecurityException {}

    public static void main(String[] arguments) throws Exception {
        Draws draws = new Draws();
        draws.all();
        Executor oneThread = Executors.newSingleThreadExecutor();
        serve(8080, oneThread, draws);
        serve(9000, oneThread, draws); // the /ready hook: each generator is used as late as can be
    }

    private static void serve(int port, Executor thread, Draws draws) throws IOException {
        HttpServer server = HttpServer.create(new InetSocketAddress(port), 0);
        server.createContext("/", exchange -> {
            byte[] answer = draws.json().getBytes();
            exchange.sendResponseHeaders(200, answer.length);
            exchange.getResponseBody().write(answer);
            exchange.close();
        });
        server.setExecutor(thread);
        server.start();
    }

    private String json() throws IOException {
        try {
            return all().entrySet().stream()
                    .map(one -> "\"%s\": \"%s\"".formatted(one.getKey(), one.getValue()))
                    .collect(Collectors.joining(", ", "{", "}"));
        } catch (GeneralSecurityException | InterruptedException error) {
            throw new IOException(error);
        }
    }

    /** What each generator says next: old ones were made when the program started, new ones are made for this. */
    private Map<String, Object> all() throws GeneralSecurityException, InterruptedException, IOException {
        Map<String, Object> drawn = new LinkedHashMap<>();
        drawn.put("algorithm", secure.getAlgorithm());
        drawn.put("kernel", kernel());
        drawn.put("secure_old", bytes(secure));
        drawn.put("secure_new", bytes(new SecureRandom()));
        drawn.put("strong_old", bytes(strong));
        drawn.put("strong_new", bytes(SecureRandom.getInstanceStrong()));
        drawn.put("uuid", UUID.randomUUID());
        drawn.put("drbg_old", bytes(drbg));
        drawn.put("drbg_new", bytes(SecureRandom.getInstance("DRBG")));
        drawn.put("drbg_reseeded", bytes(reseeded()));
        drawn.put("drbg_predicting", bytes(SecureRandom.getInstance("DRBG",
                DrbgParameters.instantiation(128, DrbgParameters.Capability.PR_AND_RESEED, null))));
        drawn.put("drbg_seeded", bytes(seeded("DRBG")));
        drawn.put("sha1_old", bytes(sha1));
        drawn.put("sha1_new", bytes(SecureRandom.getInstance("SHA1PRNG")));
        drawn.put("sha1_seeded", bytes(seeded("SHA1PRNG")));
        drawn.put("math", Math.random());
        drawn.put("shuffle", shuffled());
        drawn.put("random_old", random.nextLong());
        drawn.put("random_new", new Random().nextLong());
        drawn.put("random_seeded", new Random(secure.nextLong()).nextLong());
        drawn.put("thread_local", ThreadLocalRandom.current().nextLong());
        drawn.put("thread_local_new", ofNewThread());
        drawn.put("splittable_old", splittable.nextLong());
        drawn.put("splittable_new", new SplittableRandom().nextLong());
        drawn.put("generator_old", generator.nextLong());
        drawn.put("generator_new", RandomGenerator.getDefault().nextLong());
        return drawn;
    }

    private static String bytes(SecureRandom from) {
        byte[] bytes = new byte[16];
        from.nextBytes(bytes);
        return HexFormat.of().formatHex(bytes);
    }

    private static String kernel() throws IOException {
        try (FileInputStream file = new FileInputStream("/dev/urandom")) {
            return HexFormat.of().formatHex(file.readNBytes(16));
        }
    }

    /** One that was asked to reseed itself. */
    private static SecureRandom reseeded() throws GeneralSecurityException {
        SecureRandom one = SecureRandom.getInstance("DRBG",
                DrbgParameters.instantiation(128, DrbgParameters.Capability.RESEED_ONLY, null));
        one.nextInt();
        one.reseed();
        return one;
    }

    /** One that was given the kernel's bytes, as an app can give them in its `/run`. */
    private SecureRandom seeded(String algorithm) throws GeneralSecurityException {
        SecureRandom one = SecureRandom.getInstance(algorithm);
        one.nextInt();
        one.setSeed(secure.generateSeed(32));
        return one;
    }

    private static List<Integer> shuffled() {
        List<Integer> numbers = new ArrayList<>(IntStream.range(0, 30).boxed().toList());
        Collections.shuffle(numbers);
        return numbers;
    }

    private static long ofNewThread() throws InterruptedException {
        long[] drawn = new long[1];
        Thread thread = new Thread(() -> drawn[0] = ThreadLocalRandom.current().nextLong());
        thread.start();
        thread.join();
        return drawn[0];
    }
}
