package controller_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/belfrylb/belfry/hack/lab"
	"github.com/belfrylb/belfry/internal/controller"
	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/objects"
	"github.com/belfrylb/belfry/internal/watchdog"
)

// lead runs a controller in this process, as the leader, until the test ends.
func (w *world) lead(edit func(*controller.Controller)) *syncBuffer {
	w.Helper()
	config, err := w.lab.Cluster.ConfigFor(w.Context(), lab.Namespace, "belfry-controller")
	w.must(err)
	clients, err := kube.NewClients(config, "test")
	w.must(err)
	text := &syncBuffer{}
	log := slog.New(slog.NewTextHandler(text, nil))
	cluster := kube.NewCluster(clients.Core, clients.Own, objects.Scope{Role: objects.Allocating}, slog.New(slog.DiscardHandler))
	events := kube.NewRecorder(clients.Core, "belfry.dev/controller", "test", log)
	c := controller.New(controller.Options{
		Cluster: cluster, Events: events, Metrics: controller.NewMetrics(prometheus.NewRegistry(), events),
		Held: func() bool { return true }, WriteTimeout: 5 * time.Second, Log: log,
	})
	edit(c)
	ctx, stop := context.WithCancel(w.Context())
	var wg sync.WaitGroup
	wg.Go(func() { cluster.Run(ctx) })
	wg.Go(func() { events.Run(ctx) })
	wg.Go(func() {
		if err := c.Lead(ctx); err != nil {
			w.Errorf("lead: %v", err)
		}
	})
	w.Cleanup(func() {
		stop()
		wg.Wait()
	})
	return text
}

// A syncBuffer is a buffer that several may write to.
type syncBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// take returns what was written since it was taken last.
func (b *syncBuffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.text.Reset()
	return b.text.String()
}

func TestServiceThatMakesTheLoopPanicIsSetAside(t *testing.T) {
	w := newWorld(t)
	w.pool("edge", nil, "192.0.2.0/30", "2001:db8::/126")
	log := w.lead(func(c *controller.Controller) { c.Fault("fault", controller.OnSight) })
	const served = "pool=edge Allocated=True/Allocated Announced=False/NoAdvertisement"
	w.expose("web", dualStack)
	w.becomes("web", "192.0.2.0 2001:db8:: "+served)
	faulty := func(s *corev1.Service) { s.Labels = map[string]string{"fault": ""} }
	w.expose("faulty", faulty)
	w.becomes("faulty", "Allocated=False/BadRequest")
	w.expose("late")
	w.becomes("late", "192.0.2.1 "+served)
	// One that holds an address keeps it.
	w.patch("web", `{"metadata":{"labels":{"fault":""}}}`)
	w.becomes("web", "192.0.2.0 2001:db8:: pool=edge Allocated=True/BadRequest Announced=False/NoAdvertisement")
	w.expose("later", dualStack)
	w.becomes("later", "192.0.2.2 2001:db8::1 "+served)
	// It is served again once it has changed.
	w.patch("faulty", `{"metadata":{"labels":{"fault":null}}}`)
	w.becomes("faulty", "192.0.2.3 "+served)
	w.patch("web", `{"metadata":{"labels":{"fault":null}}}`)
	w.becomes("web", "192.0.2.0 2001:db8:: "+served)
	if got := log.String(); !strings.Contains(got, "a fault over faulty") || !strings.Contains(got, "service=default/faulty") {
		t.Errorf("the log does not tell what happened:\n%s", got)
	}
}

func TestALoopThatHangsIsFoundOut(t *testing.T) {
	w := newWorld(t)
	w.pool("edge", nil, "192.0.2.0/30", "2001:db8::/126")
	released := make(chan struct{})
	release := sync.OnceFunc(func() { close(released) })
	t.Cleanup(release) // before lead waits for the loop
	var loop *watchdog.Watchdog
	w.lead(func(c *controller.Controller) {
		loop = watchdog.New("the allocation loop", time.Second)
		c.Watchdog = loop
		c.Stick("stuck", released)
	})
	defer release()
	const served = "pool=edge Allocated=True/Allocated Announced=False/NoAdvertisement"
	w.expose("web", dualStack)
	w.becomes("web", "192.0.2.0 2001:db8:: "+served)
	turns := func(want bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; {
			err := loop.Check(t.Context())
			if (err == nil) == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("the loop turns: %v, want %v", err, want)
			}
		}
	}
	turns(true)
	w.expose("stuck", func(s *corev1.Service) { s.Labels = map[string]string{"stuck": ""} })
	turns(false)
	release()
	w.becomes("stuck", "192.0.2.1 "+served)
	turns(true)
}
