// The application of the stopping lab for Tomcat: on SIGTERM it stops as Catalina's shutdown hook
// does (stop), or pauses and waits for requests under way first, as Spring Boot does (graceful).
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.catalina.connector.Connector;
import org.apache.catalina.startup.Tomcat;

public class Server extends HttpServlet {
    private static final AtomicInteger busy = new AtomicInteger();

    @Override
    protected void service(HttpServletRequest request, HttpServletResponse response)
            throws IOException {
        busy.incrementAndGet();
        try {
            if (System.getenv("EAGER") == null) {
                request.getInputStream().readAllBytes();
            }
            Files.writeString(
                    Path.of(System.getenv("CARRIED")), request.getRequestURI() + "\n",
                    StandardOpenOption.CREATE, StandardOpenOption.APPEND);
            String seconds = System.getenv().getOrDefault("SECONDS", "0.05");
            Thread.sleep((long) (1000 * Double.parseDouble(seconds)));
            response.setContentLength(3);
            response.getOutputStream().print("ok\n");
        } catch (InterruptedException error) {
            throw new IOException(error);
        } finally {
            busy.decrementAndGet();
        }
    }

    public static void main(String[] args) throws Exception {
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir(System.getenv("DIRECTORY"));
        Connector connector = new Connector();
        connector.setProperty("address", "127.0.0.1");
        connector.setPort(Integer.parseInt(System.getenv("PORT")));
        tomcat.setConnector(connector);
        var context = tomcat.addContext("", null);
        Tomcat.addServlet(context, "app", new Server());
        context.addServletMappingDecoded("/*", "app");
        tomcat.start();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                if (args[0].equals("graceful")) {
                    connector.pause();
                    connector.getProtocolHandler().closeServerSocketGraceful();
                    while (busy.get() > 0) {
                        Thread.sleep(10);
                    }
                }
                tomcat.stop();
                tomcat.destroy();
            } catch (Exception error) {
                error.printStackTrace();
            }
        }));
        tomcat.getServer().await();
    }
}
