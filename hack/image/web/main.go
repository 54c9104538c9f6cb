// Command web is the backend of the lab's Services: it answers every request
// with one line that says who answered and who asked.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	address := flag.String("address", ":8080", "address to listen on")
	linger := flag.Duration("linger", 5*time.Second, "how long to go on serving after SIGTERM, while news of the end travels")
	flag.Parse()
	if err := serve(*address, *linger); err != nil {
		log.Fatal(err)
	}
}

func serve(address string, linger time.Duration) error {
	stopped, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	pod, _ := os.Hostname()
	server := &http.Server{Handler: handler(os.Getenv("NODE_NAME"), pod), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-stopped.Done():
	}
	select {
	case err := <-failed:
		return err
	case <-time.After(linger):
	}
	ctx, cancel := context.WithTimeout(context.Background(), linger+time.Second)
	defer cancel()
	return server.Shutdown(ctx)
}

// handler answers "node=... pod=... client=...".
func handler(node, pod string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			client = r.RemoteAddr
		}
		fmt.Fprintf(w, "node=%s pod=%s client=%s\n", node, pod, client)
	})
}
