package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/belfrylb/belfry/hack/lab"
)

const (
	prefix = "mass-"
	// clients is how many requests are under way at once.
	clients = 16
)

// A tally counts the mass of Services as somebody sees them who watches.
type tally struct {
	mu   sync.Mutex
	seen map[string]progress
	// told counts how often they were told what, by the reason of their condition.
	told map[string]int
}

type progress struct {
	allocated, announced bool
	told                 string
}

func (c *cluster) watch(ctx context.Context) (*tally, error) {
	t := &tally{seen: map[string]progress{}, told: map[string]int{}}
	factory := informers.NewSharedInformerFactoryWithOptions(c.api, 0, informers.WithNamespace(namespace))
	informer := factory.Core().V1().Services().Informer()
	note := func(obj any) {
		if s, ok := obj.(*corev1.Service); ok && strings.HasPrefix(s.Name, prefix) {
			t.mu.Lock()
			defer t.mu.Unlock()
			announced, reason := isAnnounced(s)
			if reason != "" && reason != t.seen[s.Name].told {
				t.told[reason]++
			}
			t.seen[s.Name] = progress{len(s.Status.LoadBalancer.Ingress) > 0, announced, reason}
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    note,
		UpdateFunc: func(_, obj any) { note(obj) },
		DeleteFunc: func(obj any) {
			if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
				t.mu.Lock()
				defer t.mu.Unlock()
				delete(t.seen, strings.TrimPrefix(key, namespace+"/"))
			}
		},
	})
	if err != nil {
		return nil, err
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return nil, errors.New("the watch of Services did not begin")
	}
	return t, nil
}

// tellings says how often Services were told what.
func (t *tally) tellings() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []string
	for _, reason := range slices.Sorted(maps.Keys(t.told)) {
		all = append(all, fmt.Sprintf("%s %d times", reason, t.told[reason]))
	}
	return strings.Join(all, ", ")
}

// await waits until n Services are there and all are as they should be.
func (t *tally) await(ctx context.Context, n int, what string, is func(progress) bool) error {
	return eventually(ctx, 5*time.Minute, what, func() error {
		t.mu.Lock()
		defer t.mu.Unlock()
		good := 0
		for _, p := range t.seen {
			if is(p) {
				good++
			}
		}
		if good != n || len(t.seen) != n {
			return fmt.Errorf("%d of %d", good, len(t.seen))
		}
		return nil
	})
}

// massService is the ith of the mass. It has no node port, of which there are
// 2,768 only.
func massService(i int) *corev1.Service {
	no := false
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s%05d", prefix, i)},
		Spec: corev1.ServiceSpec{
			Type:                          corev1.ServiceTypeLoadBalancer,
			AllocateLoadBalancerNodePorts: &no,
			Selector:                      map[string]string{"app": "web"},
			Ports:                         []corev1.ServicePort{{Port: 80}},
		},
	}
}

// inParallel does something for 0 to n-1.
func inParallel(n int, do func(i int) error) error {
	var (
		wg    sync.WaitGroup
		next  = make(chan int)
		mu    sync.Mutex
		first error
	)
	for range clients {
		wg.Go(func() {
			for i := range next {
				if err := do(i); err != nil {
					mu.Lock()
					if first == nil {
						first = err
					}
					mu.Unlock()
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	return first
}

// create creates the mass of Services and returns how long it took until all of
// them were seen in the state that is asked for.
func (c *cluster) create(ctx context.Context, t *tally, n int, what string, is func(progress) bool) (time.Duration, error) {
	begun := time.Now()
	err := inParallel(n, func(i int) error {
		_, err := c.api.CoreV1().Services(namespace).Create(ctx, massService(i), metav1.CreateOptions{})
		return err
	})
	if err == nil {
		err = t.await(ctx, n, what, is)
	}
	return time.Since(begun), err
}

// remove deletes the mass of Services and waits until their EndpointSlices are
// gone too.
func (c *cluster) remove(ctx context.Context, t *tally, n int) error {
	err := inParallel(n, func(i int) error {
		err := c.api.CoreV1().Services(namespace).Delete(ctx, massService(i).Name, metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := t.await(ctx, 0, "all Services are gone", func(progress) bool { return true }); err != nil {
		return err
	}
	return eventually(ctx, 5*time.Minute, "all EndpointSlices are gone", func() error {
		left, err := c.slices(ctx)
		if err == nil && left > 20 { // of Kubernetes itself, and of the few others
			err = fmt.Errorf("%d are left", left)
			_ = pause(ctx, 500*time.Millisecond)
		}
		return err
	})
}

// slices counts the EndpointSlices.
func (c *cluster) slices(ctx context.Context) (int, error) {
	list, err := c.api.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return 0, err
	}
	n := len(list.Items)
	if more := list.RemainingItemCount; more != nil {
		n += int(*more)
	}
	return n, nil
}

// setProxies stops or continues the nodes' kube-proxies, which have nothing to
// do with what is measured and would take most of two processors.
func (c *cluster) setProxies(set func(*lab.Process) error) error {
	for _, node := range c.Network.Nodes() {
		p, err := c.Processes.Process("kube-proxy/" + node)
		if err != nil {
			return err
		}
		if err := set(p); err != nil {
			return err
		}
	}
	return nil
}

// createServices creates the mass of Services twice: with none of ours running,
// and with all of ours.
func createServices(ctx context.Context, b *bench) error {
	if b.broken {
		return errors.New("the cluster is not well")
	}
	c, err := b.need(ctx)
	if err != nil {
		return err
	}
	if err := c.end(ctx); err != nil {
		return err
	}
	if err := c.setProxies((*lab.Process).Pause); err != nil {
		return err
	}
	t, err := c.watch(ctx)
	if err != nil {
		return err
	}
	n := b.services
	others, err := c.othersTime()
	if err != nil {
		return err
	}
	b.say("  %d Services, none of ours running", n)
	alone, err := c.create(ctx, t, n, "all Services are there", func(progress) bool { return true })
	if err != nil {
		return err
	}
	if err := c.awaitSlices(ctx, n); err != nil {
		return err
	}
	without, err := c.othersTime()
	if err != nil {
		return err
	}
	b.say("  %s, %.3g s of processor time of Kubernetes; deleting them", duration(alone), (without - others).Seconds())
	if err := c.remove(ctx, t, n); err != nil {
		return err
	}

	b.say("  the same, with a controller and %d speakers", nodes)
	if err := c.begin(ctx); err != nil {
		return err
	}
	if err := c.silence(ctx); err != nil {
		return err
	}
	before, err := c.allUses()
	if err != nil {
		return err
	}
	if others, err = c.othersTime(); err != nil {
		return err
	}
	mark, err := c.Cluster.AuditNow()
	if err != nil {
		return err
	}
	var ours, announced time.Duration
	err = b.profiled(ctx, c, func() (err error) {
		if ours, err = c.create(ctx, t, n, "all Services have an address", func(p progress) bool { return p.allocated }); err != nil {
			return err
		}
		begun := time.Now()
		if err := t.await(ctx, n, "all Services are announced", func(p progress) bool { return p.announced }); err != nil {
			return err
		}
		announced = ours + time.Since(begun)
		return c.silence(ctx)
	})
	if err != nil {
		return err
	}
	after, err := c.allUses()
	if err != nil {
		return err
	}
	with, err := c.othersTime()
	if err != nil {
		return err
	}
	b.say("  processor time of Kubernetes meanwhile: %.3g s", (with - others).Seconds())
	writes, err := c.Cluster.Writes(mark, lab.Namespace)
	if err != nil {
		return err
	}
	metrics, err := c.Observers.Metrics(ctx, lab.ControlPlane, controllerMetrics)
	if err != nil {
		return err
	}
	middle, err := quantile(metrics, "belfry_allocation_seconds", 0.5)
	if err != nil {
		return err
	}
	late, err := quantile(metrics, "belfry_allocation_seconds", 0.99)
	if err != nil {
		return err
	}
	c.filled = true
	b.found("create/latency", late, "99th percentile; median %s", inSeconds.format(middle))
	b.found("create/wall", float64(ours)/float64(alone), "%s, alone %s", duration(ours), duration(alone))
	b.found("create/announced", announced.Seconds(), "")
	b.found("create/writes", float64(len(writes))/float64(n), "%s; told %s", kinds(writes, n), t.tellings())
	b.found("create/controller-cpu", seconds(after[controllerName].cpu-before[controllerName].cpu), "")
	b.found("create/controller-rss", after[controllerName].memory.peak, "then %s", inBytes.format(after[controllerName].memory.now))
	share, err := c.shareOfLimit(controllerName, "controller.yaml")
	if err != nil {
		return err
	}
	b.found("create/controller-limit", share, "")
	var most, largest, now, fullest float64
	all := seconds(after[controllerName].cpu - before[controllerName].cpu)
	for _, node := range c.Network.Nodes() {
		is, was := after[lab.SpeakerOn(node)], before[lab.SpeakerOn(node)]
		most, all = max(most, seconds(is.cpu-was.cpu)), all+seconds(is.cpu-was.cpu)
		largest = max(largest, is.memory.peak)
		now = max(now, is.memory.now)
		share, err := c.shareOfLimit(lab.SpeakerOn(node), "speaker.yaml")
		if err != nil {
			return err
		}
		fullest = max(fullest, share)
	}
	b.found("create/speaker-limit", fullest, "")
	b.found("create/speaker-cpu", most, "")
	b.found("create/cpu", all, "")
	b.found("create/speaker-rss", largest, "then %s", inBytes.format(now))
	return nil
}

// othersTime is the processor time of the API server, etcd and the controllers
// of Kubernetes.
func (c *cluster) othersTime() (sum time.Duration, err error) {
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager"} {
		u, err := c.usesOf(name)
		if err != nil {
			return 0, err
		}
		sum += u.cpu
	}
	return sum, nil
}

// quantile returns the upper end of the bucket of a histogram that a share of
// all observations does not exceed.
func quantile(metrics map[string]float64, name string, share float64) (float64, error) {
	total, best := metrics[name+"_count"], math.Inf(1)
	for series, n := range metrics {
		le, ok := strings.CutPrefix(series, name+`_bucket{le="`)
		if !ok || n < share*total {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSuffix(le, `"}`), 64)
		if err != nil {
			return 0, fmt.Errorf("series %s: %w", series, err)
		}
		best = min(best, v)
	}
	if total == 0 || math.IsInf(best, 1) {
		return 0, fmt.Errorf("%s tells no quantile: %v observations", name, total)
	}
	return best, nil
}

// awaitSlices waits until the Services have their EndpointSlices.
func (c *cluster) awaitSlices(ctx context.Context, n int) error {
	return eventually(ctx, 5*time.Minute, "all Services have EndpointSlices", func() error {
		have, err := c.slices(ctx)
		if err == nil && have < n {
			err = fmt.Errorf("%d have", have)
			_ = pause(ctx, 200*time.Millisecond)
		}
		return err
	})
}

// silence waits until none of ours has written anything for two seconds.
func (c *cluster) silence(ctx context.Context) error {
	return eventually(ctx, 3*time.Minute, "nothing is written any more", func() error {
		mark, err := c.Cluster.AuditNow()
		if err != nil {
			return err
		}
		if err := pause(ctx, 2*time.Second); err != nil {
			return err
		}
		writes, err := c.Cluster.Writes(mark, lab.Namespace)
		if err == nil && len(writes) > 0 {
			err = fmt.Errorf("%d writes in two seconds, among them %s", len(writes), writes[len(writes)-1])
		}
		return err
	})
}

// full makes sure that the mass of Services is there.
func (b *bench) full(ctx context.Context) (*cluster, error) {
	c, err := b.need(ctx)
	if err != nil {
		return nil, err
	}
	if !c.filled {
		if err := createServices(ctx, b); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// restartController restarts the controller of a cluster that needs nothing of
// it.
func restartController(ctx context.Context, b *bench) error {
	c, err := b.full(ctx)
	if err != nil {
		return err
	}
	p, err := c.Processes.Process(controllerName)
	if err != nil {
		return err
	}
	if err := p.Terminate(ctx); err != nil {
		return err
	}
	mark, err := c.Cluster.AuditNow()
	if err != nil {
		return err
	}
	begun := time.Now()
	if _, err := c.Product.StartController(ctx, 0); err != nil {
		return err
	}
	const adopted = `belfry_services{reason="Allocated",waiting="false"}`
	err = eventually(ctx, time.Minute, "all Services are adopted", func() error {
		m, err := c.Observers.Metrics(ctx, lab.ControlPlane, controllerMetrics)
		if err == nil && int(m[adopted]) < b.services {
			err = fmt.Errorf("%v are", m[adopted])
		}
		return err
	})
	if err != nil {
		return err
	}
	took := time.Since(begun)
	if err := pause(ctx, 5*time.Second); err != nil { // whatever it would write, it would by then
		return err
	}
	u, err := c.usesOf(controllerName)
	if err != nil {
		return err
	}
	writes, err := c.Cluster.Writes(mark, lab.Namespace)
	if err != nil {
		return err
	}
	b.found("restart/ready", took.Seconds(), "")
	b.found("restart/writes", float64(len(writes)), "%s", kinds(writes, 1))
	b.found("restart/cpu", u.cpu.Seconds(), "peak %s", inBytes.format(u.memory.peak))
	return nil
}

// beQuiet counts what is asked of the API server while nothing happens.
func beQuiet(ctx context.Context, b *bench) error {
	c, err := b.full(ctx)
	if err != nil {
		return err
	}
	if err := c.silence(ctx); err != nil {
		return err
	}
	mark, err := c.Cluster.AuditNow()
	if err != nil {
		return err
	}
	if err := pause(ctx, 20*time.Second); err != nil {
		return err
	}
	leases := 0
	asked, err := c.Cluster.Audit(mark, func(e lab.AuditEvent) bool {
		if !e.ByServiceAccount(lab.Namespace) || e.Verb == "watch" {
			return false
		}
		if e.ObjectRef.Resource == "leases" {
			leases++
			return false
		}
		return true
	})
	if err != nil {
		return err
	}
	if leases == 0 {
		return errors.New("the controller has not renewed its lease in 20 s, by the audit log: it sees nothing")
	}
	b.found("quiet/requests", float64(len(asked)), "%s", kinds(asked, 1))
	return nil
}

// kinds sums requests up, those of which there is one for each of n objects.
func kinds(events []lab.AuditEvent, n int) string {
	count := map[string]int{}
	for _, e := range events {
		count[e.Verb+" "+e.ObjectRef.Resource]++
	}
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(count)) {
		if count[kind] >= n {
			parts = append(parts, fmt.Sprintf("%.3g %s", float64(count[kind])/float64(n), kind))
		}
	}
	return strings.Join(parts, ", ")
}
