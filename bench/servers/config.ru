# The application of the stopping lab for Rack servers.
run lambda { |env|
  env["rack.input"].read unless ENV["EAGER"]
  File.open(ENV["CARRIED"], "a") { |file| file.syswrite(env["PATH_INFO"] + "\n") }
  sleep((ENV["SECONDS"] || "0.05").to_f)
  [200, { "Content-Type" => "text/plain", "Content-Length" => "3" }, ["ok\n"]]
}
