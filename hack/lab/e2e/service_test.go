package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

func TestAnExposedServiceAnswersFromAnotherHost(t *testing.T) {
	l := cluster(t)
	_, err := l.Cluster.Kubectl(t.Context(), "expose", "deployment", "web", "--name=exposed", "--port=80", "--type=LoadBalancer")
	must(t, err)
	t.Cleanup(func() { _, _ = l.Cluster.Kubectl(context.Background(), "delete", "service", "exposed") })
	_, err = l.Cluster.Kubectl(t.Context(), "patch", "service", "exposed", `--patch={"spec":{"ipFamilyPolicy":"PreferDualStack"}}`)
	must(t, err)
	var addresses []netip.Addr
	eventually(t, 20*time.Second, "the Service gets an address of each family", func() error {
		if addresses = ingress(t, l, "exposed"); len(addresses) != 2 {
			return fmt.Errorf("it has %v", addresses)
		}
		return nil
	})
	if !addresses[0].Is4() || !addresses[1].Is6() {
		t.Errorf("its addresses are %v, want the primary family first", addresses)
	}
	for _, address := range addresses {
		eventually(t, 10*time.Second, "curl from the client", func() error {
			r, err := l.Observers.Curl(t.Context(), address, 80)
			if err == nil && !strings.HasPrefix(r.Node, "node") {
				err = fmt.Errorf("%+v", r)
			}
			return err
		})
		// arping and ndisc6 know nothing of us.
		macs, err := l.Observers.Resolve(t.Context(), address)
		must(t, err)
		if len(macs) != 1 {
			t.Errorf("%d hardware addresses answer for %s: %v", len(macs), address, macs)
		}
		for _, mac := range macs {
			if host := l.Network.HostOf(mac); !slices.Contains(l.Network.Nodes(), host) {
				t.Errorf("%s answers for %s, want a node", host, address)
			}
		}
	}
	modes, err := l.Cluster.Kubectl(t.Context(), "get", "service", "exposed", "--output=jsonpath={.status.loadBalancer.ingress[*].ipMode}")
	must(t, err)
	if modes != "VIP VIP" {
		t.Errorf("ipMode is %q, want VIP for both", modes)
	}
	eventually(t, 10*time.Second, "the condition names a node that announces", func() error {
		out, err := l.Cluster.Kubectl(t.Context(), "get", "service", "exposed", `--output=jsonpath={.status.conditions[?(@.type=="belfry.dev/Announced")].message}`)
		if err == nil && !strings.Contains(out, "node") {
			err = fmt.Errorf("its message is %q", out)
		}
		return err
	})
}

func TestALocalServiceFollowsItsReadyEndpoints(t *testing.T) {
	l := cluster(t)
	clientV4, clientV6 := l.Network.Addresses(lab.Client)
	addresses := serve(t, l, "local", "externalTrafficPolicy: Local")
	probes := []*lab.Prober{probe(t, l, addresses[0]), probe(t, l, addresses[1])}
	t.Cleanup(func() {
		for _, node := range l.Network.Nodes() {
			must(t, l.Machines.Reinstate(context.Background(), node))
		}
	})
	// Each node in turn is the only one with a ready endpoint.
	for _, node := range l.Network.Nodes() {
		must(t, l.Machines.Reinstate(t.Context(), node))
		for _, other := range others(l, node) {
			must(t, l.Machines.Withdraw(t.Context(), other))
		}
		for i, client := range []netip.Addr{clientV4, clientV6} {
			answers(t, probes[i], 10*time.Second, only(node))
			eventually(t, 10*time.Second, "curl reaches the backend on the node that answers", func() error {
				r, err := l.Observers.Curl(t.Context(), addresses[i], 80)
				if err != nil {
					return err
				}
				if r.Node != node {
					return fmt.Errorf("the backend is on %s, want %s", r.Node, node)
				}
				if r.Client != client {
					return fmt.Errorf("the backend saw the client %s, want %s: Local keeps the source", r.Client, client)
				}
				return nil
			})
		}
	}
	for _, node := range l.Network.Nodes() {
		must(t, l.Machines.Withdraw(t.Context(), node))
	}
	for _, p := range probes {
		falls(t, p)
	}
	eventually(t, 10*time.Second, "the condition says that there is no endpoint", func() error {
		out, err := l.Cluster.Kubectl(t.Context(), "get", "service", "local", `--output=jsonpath={.status.conditions[?(@.type=="belfry.dev/Announced")].status}`)
		if err == nil && out != "False" {
			err = fmt.Errorf("Announced is %q", out)
		}
		return err
	})
}

// falls waits until nobody answers any more.
func falls(t *testing.T, p *lab.Prober) {
	t.Helper()
	eventually(t, 10*time.Second, "nobody answers", func() error {
		r := p.Report()
		const enough = 50 // questions in a row
		if n := len(r.Questions); n < enough || len((lab.Report{Questions: r.Questions[n-enough:]}).Hosts()) > 0 {
			return errors.New(r.String())
		}
		return nil
	})
}

func TestADeletedServiceFreesItsAddressAndAnsweringStops(t *testing.T) {
	l := cluster(t)
	addresses := serve(t, l, "brief")
	probes := []*lab.Prober{probe(t, l, addresses[0]), probe(t, l, addresses[1])}
	for _, p := range probes {
		answers(t, p, 10*time.Second, anybody)
	}
	_, err := l.Cluster.Kubectl(t.Context(), "delete", "service", "brief")
	must(t, err)
	for _, p := range probes {
		falls(t, p)
	}
	// Free: another Service gets them by asking.
	must(t, l.Cluster.Apply(t.Context(), fmt.Sprintf(`apiVersion: v1
kind: Service
metadata:
  name: heir
  annotations: {belfry.dev/loadBalancerIPs: "%s,%s"}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{port: 80}]
`, addresses[0], addresses[1])))
	t.Cleanup(func() { _, _ = l.Cluster.Kubectl(context.Background(), "delete", "service", "heir") })
	eventually(t, 10*time.Second, "the freed addresses go to who asks for them", func() error {
		if got := ingress(t, l, "heir"); !slices.Equal(got, addresses) {
			return fmt.Errorf("it has %v, want %v", got, addresses)
		}
		return nil
	})
	for _, p := range probes {
		answers(t, p, 10*time.Second, anybody)
	}
}

func TestABadObjectIsRefusedOrReportedAndHarmsNothing(t *testing.T) {
	l := cluster(t)
	addresses := serve(t, l, "steady")
	p := probe(t, l, addresses[0])
	answers(t, p, 10*time.Second, anybody) // its segment is asked first
	begun := time.Now()
	goesOn(t, p, 20)

	for name, bad := range map[string]struct{ spec, message string }{
		"not-an-address": {`addresses: ["198.51.100.300/32"]`, "spec.addresses"},
		"backwards":      {`addresses: ["198.51.100.20-198.51.100.10"]`, "the first address of a range must not be above the last"},
		"mixed":          {`addresses: ["198.51.100.20-2001:db8::1"]`, "both ends of a range must be of the same family"},
		"empty":          {`addresses: []`, "spec.addresses"},
	} {
		err := l.Cluster.Apply(t.Context(), "apiVersion: belfry.dev/v1beta1\nkind: IPAddressPool\nmetadata: {name: "+name+"}\nspec: {"+bad.spec+"}\n")
		if err == nil {
			t.Errorf("%s: kubectl apply took it", name)
			_, _ = l.Cluster.Kubectl(t.Context(), "delete", "ipaddresspool", name)
		} else if !strings.Contains(err.Error(), bad.message) {
			t.Errorf("%s: refused without %q: %v", name, bad.message, err)
		}
	}

	// What one object cannot see is told on the younger one, and disables
	// neither.
	must(t, l.Cluster.Apply(t.Context(), `apiVersion: belfry.dev/v1beta1
kind: IPAddressPool
metadata: {name: overlapping}
spec: {addresses: ["198.51.100.0/24"], autoAssign: false}
`))
	t.Cleanup(func() { _, _ = l.Cluster.Kubectl(context.Background(), "delete", "ipaddresspool", "overlapping") })
	eventually(t, 10*time.Second, "the overlap is told on the younger pool", func() error {
		out, err := l.Cluster.Kubectl(t.Context(), "get", "ipaddresspool", "overlapping", `--output=jsonpath={.status.conditions[?(@.type=="Accepted")]}`)
		if err == nil && !(strings.Contains(out, `"status":"False"`) && strings.Contains(out, `"reason":"Overlaps"`) && strings.Contains(out, "edge")) {
			err = fmt.Errorf("Accepted is %s", out)
		}
		return err
	})
	out, err := l.Cluster.Kubectl(t.Context(), "get", "ipaddresspool", "edge", `--output=jsonpath={.status.conditions[?(@.type=="Accepted")].status}`)
	must(t, err)
	if out != "True" {
		t.Errorf("the older pool's Accepted is %q", out)
	}
	goesOn(t, p, 20)
	r := p.Stop().Since(begun)
	if none := r.Unanswered(); len(none) > 0 {
		t.Errorf("%d questions went unanswered meanwhile:\n%s", len(none), r)
	}
	if got := ingress(t, l, "steady"); !slices.Equal(got, addresses) {
		t.Errorf("the Service's addresses changed from %v to %v", addresses, got)
	}
}
