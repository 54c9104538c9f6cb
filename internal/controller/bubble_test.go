package controller_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/controller"
	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/kube/apitest"
	"github.com/belfrylb/belfry/internal/objects"
)

// A bubble is a controller with its own cluster, in virtual time: an API server in
// memory, and nothing else that waits.
type bubble struct {
	*testing.T
	api      *apitest.Server
	held     atomic.Bool
	registry *prometheus.Registry
	log      *syncBuffer
	metrics  *controller.Metrics
	began    time.Time
	// reads is asked before each read, and may answer in its place.
	reads atomic.Pointer[func(*http.Request) *http.Response]
	// namespace is where who leads next is installed.
	namespace string
}

// inBubble runs a test in virtual time. The controller does not lead yet.
func inBubble(t *testing.T, test func(*bubble)) {
	synctest.Test(t, func(t *testing.T) { test(newBubble(t)) })
}

func newBubble(t *testing.T) *bubble {
	b := &bubble{T: t, api: apitest.New(), registry: prometheus.NewRegistry(), log: &syncBuffer{}, began: time.Now(), namespace: "belfry-system"}
	b.held.Store(true)
	b.node("node1")
	return b
}

// lead makes a controller the leader until the test ends or stop is called, and
// waits until all is quiet. Stop returns when everything has ended.
func (b *bubble) lead(edit ...func(*controller.Controller)) (stop func()) {
	b.Helper()
	return b.leads(func(err error) {
		if err != nil {
			b.Errorf("lead: %v", err)
		}
	}, edit...)
}

// leads does the same, and hands over what the leader ended with.
func (b *bubble) leads(ended func(error), edit ...func(*controller.Controller)) (stop func()) {
	b.Helper()
	config := b.api.Config()
	config.Transport = b
	clients, err := kube.NewClients(config, "test")
	if err != nil {
		b.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cluster := kube.NewCluster(clients.Core, clients.Own, objects.Scope{Role: objects.Allocating, Namespace: b.namespace}, log)
	events := kube.NewRecorder(clients.Core, "belfry.dev/controller", "test", log)
	if b.metrics == nil {
		b.metrics = controller.NewMetrics(b.registry, events)
	}
	c := controller.New(controller.Options{
		Cluster: cluster, Events: events, Metrics: b.metrics,
		Held: b.held.Load, WriteTimeout: 5 * time.Second, Log: log,
	})
	for _, e := range edit {
		e(c)
	}
	ctx, cancel := context.WithCancel(b.Context())
	var others, loop sync.WaitGroup
	others.Go(func() { cluster.Run(ctx) })
	others.Go(func() { events.Run(ctx) })
	leading, resign := context.WithCancel(b.Context())
	loop.Go(func() { ended(c.Lead(leading)) })
	stop = sync.OnceFunc(func() {
		resign()
		loop.Wait()
		cancel()
		others.Wait()
	})
	b.Cleanup(stop)
	b.quiet()
	return stop
}

// RoundTrip is how the controller reaches the API server.
func (b *bubble) RoundTrip(r *http.Request) (*http.Response, error) {
	if ask := b.reads.Load(); ask != nil && r.Method == http.MethodGet {
		if answer := (*ask)(r); answer != nil {
			return answer, nil
		}
	}
	return b.api.RoundTrip(r)
}

// quiet waits until nothing happens any more before time goes on, for longer than
// the loop cools down.
func (b *bubble) quiet() {
	b.passes(100 * time.Millisecond)
}

// passes lets time go on.
func (b *bubble) passes(d time.Duration) {
	time.Sleep(d) // virtual
	synctest.Wait()
}

func (b *bubble) node(name string, edit ...func(*corev1.Node)) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, e := range edit {
		e(n)
	}
	apitest.Put(b.api, n)
}

func (b *bubble) pool(name string, edit func(*v1beta1.IPAddressPoolSpec), addresses ...v1beta1.AddressRange) {
	p := &v1beta1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if was, ok := apitest.Get(b.api, p); ok {
		p = was
	}
	p.Spec = v1beta1.IPAddressPoolSpec{Addresses: addresses, Strategy: v1beta1.StrategyFirstFree}
	if edit != nil {
		edit(&p.Spec)
	}
	apitest.Put(b.api, p)
}

// expose creates a Service of both families, as the API server completes it.
func (b *bubble) expose(name string, edit ...func(*corev1.Service)) {
	policy := corev1.IPFamilyPolicyRequireDualStack
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
			IPFamilyPolicy: &policy, ClusterIPs: []string{"10.96.0.1", "fd00:96::1"},
		},
	}
	for _, e := range edit {
		e(s)
	}
	apitest.Put(b.api, s)
}

// service returns a Service, which must exist.
func (b *bubble) service(name string) *corev1.Service {
	b.Helper()
	s, ok := apitest.Get(b.api, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}})
	if !ok {
		b.Fatalf("there is no service %s", name)
	}
	return s
}

// edit changes a Service as a person does.
func (b *bubble) edit(name string, edits ...func(*corev1.Service)) {
	b.Helper()
	s := b.service(name)
	for _, e := range edits {
		e(s)
	}
	apitest.Put(b.api, s)
}

// remove deletes a Service.
func (b *bubble) remove(name string) { b.Helper(); b.api.Delete(b.service(name)) }

// origins are the pools that a record names, and the installation.
var origins = regexp.MustCompile(` from [^,;]+|(^|; )by .*$`)

// recorded returns the addresses that a record has.
func recorded(message string) string { return origins.ReplaceAllString(message, "") }

// carries says what a Service shows of ours, in short.
func (b *bubble) carries(name string) string {
	b.Helper()
	s := b.service(name)
	var out []string
	for _, in := range s.Status.LoadBalancer.Ingress {
		out = append(out, in.IP)
	}
	addresses := strings.Join(out, ", ")
	if pool := s.Annotations["belfry.dev/pool"]; pool != "" {
		out = append(out, "pool="+pool)
	}
	for _, c := range s.Status.Conditions {
		switch objects.ConditionType(c.Type) {
		case objects.ConditionPlaced: // see placed
		case objects.ConditionRecorded:
			if has := recorded(c.Message); has != addresses {
				out = append(out, "Recorded="+has)
			}
		default:
			out = append(out, fmt.Sprintf("%s=%s/%s", strings.TrimPrefix(c.Type, "belfry.dev/"), c.Status, c.Reason))
		}
	}
	return strings.Join(out, " ")
}

// shows fails the test unless a Service carries just what is wanted.
func (b *bubble) shows(name, want string) {
	b.Helper()
	if got := b.carries(name); got != want {
		b.Errorf("at %v service %s shows %q, want %q; log:\n%s", time.Since(b.began), name, got, want, b.log)
	}
}

// wrote fails the test unless just these writes happened since it was last asked,
// in any order, Events left aside.
func (b *bubble) wrote(want ...string) {
	b.Helper()
	var got []string
	for _, w := range b.api.Writes() {
		if w.Resource != "events" {
			got = append(got, w.String())
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		b.Errorf("at %v the writes are\n  %s\nwant\n  %s", time.Since(b.began), strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// told returns the Events since it was last asked, and forgets them.
func (b *bubble) told() []string {
	var out []string
	for _, e := range apitest.List(b.api, &eventsv1.Event{}) {
		out = append(out, fmt.Sprintf("%s %s %s %s: %s", e.Type, e.Reason, e.Regarding.Kind, e.Regarding.Name, e.Note))
		b.api.Delete(e)
	}
	slices.Sort(out)
	return out
}

// tells fails the test unless just these Events were written since it was last
// asked; each is wanted by its beginning.
func (b *bubble) tells(want ...string) {
	b.Helper()
	got := b.told()
	slices.Sort(want)
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		b.Errorf("the Events are\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func (b *bubble) poolStatus(name string) v1beta1.IPAddressPoolStatus {
	b.Helper()
	p, ok := apitest.Get(b.api, &v1beta1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: name}})
	if !ok {
		b.Fatalf("there is no pool %s", name)
	}
	return p.Status
}

// judged returns the reason of the condition Accepted.
func judged(conditions []metav1.Condition) string {
	if c := meta.FindStatusCondition(conditions, v1beta1.ConditionAccepted); c != nil {
		return c.Reason
	}
	return ""
}

// metric returns the value of a metric with just these labels, written a=b, or
// the count of a histogram; absent is -1.
func (b *bubble) metric(name string, labels ...string) float64 {
	b.Helper()
	families, err := b.registry.Gather()
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.Metric {
			var have []string
			for _, l := range m.Label {
				have = append(have, l.GetName()+"="+l.GetValue())
			}
			slices.Sort(have)
			slices.Sort(labels)
			if slices.Equal(have, labels) {
				return value(m)
			}
		}
	}
	return -1
}

func value(m *dto.Metric) float64 {
	switch {
	case m.Gauge != nil:
		return m.Gauge.GetValue()
	case m.Counter != nil:
		return m.Counter.GetValue()
	default:
		return float64(m.Histogram.GetSampleCount())
	}
}
