package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

// Both programs run with the race detector: a race that is seen fails the
// tests. The measured times are those of such programs.
var shared = lab.Share(lab.Options{Nodes: 3, Race: true})

func TestMain(m *testing.M) { os.Exit(shared.Run(m)) }

// pool is the configuration that all tests start from.
const pool = `apiVersion: belfry.dev/v1beta1
kind: IPAddressPool
metadata: {name: edge}
spec:
  addresses: [198.51.100.200-198.51.100.250, "2001:db8:51::200-2001:db8:51::250"]
---
apiVersion: belfry.dev/v1beta1
kind: L2Advertisement
metadata: {name: edge}
spec:
  ipAddressPools: [edge]
`

var install = sync.OnceValue(func() error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	l := installed
	if err := l.Product.Install(ctx); err != nil {
		return err
	}
	for replica := range 2 {
		if _, err := l.Product.StartController(ctx, replica); err != nil {
			return err
		}
	}
	for _, node := range l.Network.Nodes() {
		if _, err := l.Product.StartSpeaker(ctx, node); err != nil {
			return err
		}
	}
	if err := l.Cluster.Apply(ctx, pool); err != nil {
		return err
	}
	return l.Machines.Deploy(ctx, "default", "web", 3)
})

// installed is the lab that install works on.
var installed *lab.Lab

// cluster returns a lab with the product installed and all of it well.
func cluster(t *testing.T) *lab.Lab {
	t.Helper()
	l := shared.Get(t)
	installed = l
	if err := install(); err != nil {
		t.Fatal(err)
	}
	settle(t, l)
	return l
}

const (
	controllerMetrics = 7882
	speakerMetrics    = 7872
)

// settle waits until every speaker knows every other.
func settle(t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, node := range l.Network.Nodes() {
		eventually(t, 30*time.Second, "the speaker on "+node+" knows all members", func() error {
			metrics, err := l.Observers.Metrics(t.Context(), node, speakerMetrics)
			if err != nil {
				return err
			}
			members := 0
			for series, value := range metrics {
				if strings.HasPrefix(series, "belfry_gossip_members{") {
					members += int(value)
				}
			}
			if members != len(l.Network.Nodes()) {
				return fmt.Errorf("it knows %d members", members)
			}
			return nil
		})
	}
}

// eventually fails the test if check has not returned nil in time.
func eventually(t *testing.T, within time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s: %v", within, what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serve creates a dual-stack Service of the "web" Pods and returns its
// addresses, IPv4 first. extra is more of its spec.
func serve(t *testing.T, l *lab.Lab, name string, extra ...string) []netip.Addr {
	t.Helper()
	return serveWith(t, l, name, "{}", extra...)
}

// serveWith does it with annotations.
func serveWith(t *testing.T, l *lab.Lab, name, annotations string, extra ...string) []netip.Addr {
	t.Helper()
	must(t, l.Cluster.Apply(t.Context(), fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %s, annotations: %s}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv4, IPv6]
  selector: {app: web}
  ports: [{port: 80}]
  %s
`, name, annotations, strings.Join(extra, "\n  "))))
	t.Cleanup(func() {
		_, _ = l.Cluster.Kubectl(context.Background(), "delete", "service", name, "--ignore-not-found")
	})
	var addresses []netip.Addr
	eventually(t, 20*time.Second, "Service "+name+" gets two addresses", func() error {
		addresses = ingress(t, l, name)
		if len(addresses) != 2 {
			status, _ := l.Cluster.Kubectl(t.Context(), "get", "service", name, "--output=jsonpath={.status}")
			return errors.New(status)
		}
		return nil
	})
	return addresses
}

// ingress returns the addresses in a Service's status.
func ingress(t *testing.T, l *lab.Lab, name string) []netip.Addr {
	t.Helper()
	out, err := l.Cluster.Kubectl(t.Context(), "get", "service", name, "--output=jsonpath={.status.loadBalancer.ingress[*].ip}")
	must(t, err)
	var all []netip.Addr
	for field := range strings.FieldsSeq(out) {
		a, err := netip.ParseAddr(field)
		must(t, err)
		all = append(all, a)
	}
	return all
}

// probe asks for an address until the test ends, or until it is stopped.
func probe(t *testing.T, l *lab.Lab, address netip.Addr) *lab.Prober {
	t.Helper()
	p, err := l.Observers.Probe(address, 5*time.Millisecond)
	must(t, err)
	t.Cleanup(func() { p.Stop() })
	return p
}

// probeAll probes each of some addresses, and returns when all are answered for.
func probeAll(t *testing.T, l *lab.Lab, addresses []netip.Addr) []*lab.Prober {
	t.Helper()
	var probes []*lab.Prober
	for _, a := range addresses {
		p := probe(t, l, a)
		answers(t, p, 10*time.Second, anybody)
		probes = append(probes, p)
	}
	return probes
}

// ownersOf returns the node that answers now for each address that is probed.
func ownersOf(t *testing.T, probes []*lab.Prober) []string {
	t.Helper()
	var owners []string
	for _, p := range probes {
		owners = append(owners, answers(t, p, 10*time.Second, anybody))
	}
	return owners
}

// drain has a node drained by annotation.
func drain(ctx context.Context, l *lab.Lab, node string) error {
	_, err := l.Cluster.Kubectl(ctx, "annotate", "node", node, "belfry.dev/drain=true")
	return err
}

// undrain ends that.
func undrain(ctx context.Context, l *lab.Lab, node string) error {
	_, err := l.Cluster.Kubectl(ctx, "annotate", "node", node, "belfry.dev/drain-")
	return err
}

// answers waits until a host that is accepted answers, and returns it.
func answers(t *testing.T, p *lab.Prober, within time.Duration, accept func(host string) bool) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	a, err := p.AwaitAnswer(ctx, func(a lab.Answer) bool { return accept(a.Host) })
	if err != nil {
		t.Fatal(err)
	}
	return a.Host
}

func anybody(string) bool { return true }

func not(host string) func(string) bool {
	return func(h string) bool { return h != host }
}

func only(host string) func(string) bool {
	return func(h string) bool { return h == host }
}

// goesOn waits until a prober has asked n more questions.
func goesOn(t *testing.T, p *lab.Prober, n int) {
	t.Helper()
	begun := len(p.Report().Questions)
	eventually(t, 30*time.Second, "the prober goes on asking", func() error {
		if asked := len(p.Report().Questions) - begun; asked < n {
			return fmt.Errorf("%d questions of %d", asked, n)
		}
		return nil
	})
}

// controllers are the names of the controllers' processes.
var controllers = []string{"controller/0", "controller/1"}

// others are the nodes but one.
func others(l *lab.Lab, node string) []string {
	return slices.DeleteFunc(l.Network.Nodes(), func(n string) bool { return n == node })
}
