// Command belfry-controller assigns addresses to Services of type LoadBalancer.
// Of its replicas one is the leader and writes; the others are ready to follow.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/belfrylb/belfry/internal/controller"
	"github.com/belfrylb/belfry/internal/daemon"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/kube/lease"
	"github.com/belfrylb/belfry/internal/objects"
	"github.com/belfrylb/belfry/internal/report"
	"github.com/belfrylb/belfry/internal/watchdog"
)

// processors is how many the controller uses, unless the environment says
// otherwise: one loop decides, and everything else waits for the API server. With
// more, a sixth of what it takes is for threads that wake each other
// (docs/design/pacing.md).
const processors = 1

func main() {
	f, done, err := parse(os.Args[1:])
	if done {
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "belfry-controller: %v\n", err)
		os.Exit(2)
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(processors)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	log := f.Logger(os.Stderr)
	kube.LogTo(log)
	if err := run(ctx, f, log); err != nil {
		log.Error("controller stopped", "err", err)
		os.Exit(1)
	}
	log.Info("controller stopped")
}

// run wires everything and returns when ctx ends or something cannot go on.
func run(ctx context.Context, f flags, log *slog.Logger) error {
	log.Info("controller starting", "version", daemon.Version(), "identity", f.identity)
	config, err := kube.LoadConfig(f.kubeconfig)
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	userAgent := "belfry-controller/" + daemon.Version()
	clients, err := kube.NewClients(config, userAgent)
	if err != nil {
		return err
	}
	cluster := kube.NewCluster(clients.Core, clients.Own, objects.Scope{
		Role: objects.Allocating, Class: objects.Class(f.class), DrainTaint: f.drainTaint, Namespace: f.namespace,
	}, log)
	events := kube.NewRecorder(clients.Core, "belfry.dev/controller", f.identity, log)
	registry := daemon.NewRegistry("controller", cluster.Age)
	election := &lease.Election{
		Client: clients.Core.Leases(f.namespace), Namespace: f.namespace, Name: "belfry-controller",
		Identity: f.identity, Timing: f.lease, Log: log,
	}
	loop := watchdog.New("the allocation loop", watchdog.Patience)
	secret := kube.NewGossipSecret(clients.Core, f.namespace, f.gossipSecret, events, log)
	c := controller.New(controller.Options{
		Cluster: cluster, Events: events, Metrics: controller.NewMetrics(registry, events),
		Announce: eligibility.Options{IgnoreExcludeLB: f.ignoreExcludeLB},
		Settings: report.Settings{Class: f.class, DrainTaint: f.drainTaint, IgnoreExcludeLB: f.ignoreExcludeLB, Namespace: f.namespace},
		Gossip:   secret,
		Held:     election.Held, WriteTimeout: f.lease.Lease - f.lease.Renew, Watchdog: loop, Log: log,
	})

	// The watches, the Events and the servers outlive the leader's work, which
	// needs them until its last write has returned.
	background, end := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer end()
	ready := func() error {
		select {
		case <-cluster.Synced():
			return nil
		default:
			return fmt.Errorf("not read yet: %s", strings.Join(cluster.Unread(), ", "))
		}
	}
	if err := f.Serve(background, &wg, daemon.Health{Alive: loop.Check, Ready: ready}, kube.MayGet(clients.Core, "/metrics"), registry, log); err != nil {
		return err
	}
	wg.Go(func() { cluster.Run(background) })
	wg.Go(func() { secret.Run(background) })
	wg.Go(func() { events.Run(background) })

	return election.Run(ctx, func(ctx context.Context) error {
		ctx, end := context.WithCancel(ctx)
		var keeping sync.WaitGroup
		defer keeping.Wait()
		defer end()
		keeping.Go(func() { secret.Keep(ctx) })
		return c.Lead(ctx)
	})
}
