package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/belfrylb/belfry/internal/election"
)

func TestReadyOnceItHasLearnedWhoOwnsWhat(t *testing.T) {
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "belfry_test"}))
	o := options{healthAddress: free(), metricsAddress: free()}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	h := &health{}
	if err := serve(ctx, &wg, o, h, registry, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	get := func(url string, status int, text string) {
		t.Helper()
		answer, err := http.Get("http://" + url)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != status || !strings.Contains(string(body), text) {
			t.Errorf("%s: %d %q, %v; want %d %q", url, answer.StatusCode, body, err, status, text)
		}
	}
	members := []election.Member{{Node: "node1", State: election.Joining}, {Node: "node2", State: election.Alive}}
	get(o.healthAddress+"/healthz", 200, "ok")
	get(o.healthAddress+"/readyz", 503, "not learned")
	h.watch(func() bool { return joined(members, "node1") })
	get(o.healthAddress+"/readyz", 503, "not learned")
	members[0].State = election.Alive
	get(o.healthAddress+"/readyz", 200, "ok")
	get(o.metricsAddress+"/metrics", 200, "belfry_test 0")

	if err := serve(ctx, &wg, o, h, registry, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("an address in use is accepted")
	}
	cancel()
	wg.Wait()
	if _, err := http.Get("http://" + o.healthAddress + "/healthz"); err == nil {
		t.Error("it serves after it has ended")
	}
}
