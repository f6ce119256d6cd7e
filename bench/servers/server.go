// The application of the stopping lab for Go's net/http, with Shutdown on SIGTERM or without.
package main

import (
	"context"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func carryOut(answer http.ResponseWriter, request *http.Request) {
	if os.Getenv("EAGER") == "" { // an eager application begins without having read the body
		io.Copy(io.Discard, request.Body)
	}
	file, _ := os.OpenFile(os.Getenv("CARRIED"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	file.WriteString(request.URL.Path + "\n")
	file.Close()
	pause, err := time.ParseDuration(os.Getenv("SECONDS") + "s")
	if err != nil {
		pause = 50 * time.Millisecond
	}
	time.Sleep(pause)
	answer.Header().Set("Content-Length", "3")
	io.WriteString(answer, "ok\n")
}

func main() {
	server := &http.Server{Addr: "127.0.0.1:" + os.Getenv("PORT"), Handler: http.HandlerFunc(carryOut)}
	if os.Args[1] == "none" {
		server.ListenAndServe()
		return
	}
	stopped := make(chan os.Signal, 1)
	signal.Notify(stopped, syscall.SIGTERM)
	go server.ListenAndServe()
	<-stopped
	server.Shutdown(context.Background())
}
