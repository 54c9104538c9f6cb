package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

// What overlays/bgp takes from a speaker BGP does not need, with all that a router
// may ask for; and what a speaker cannot announce it leaves to others.
func TestBGPNeedsNoPowers(t *testing.T) {
	l := routedCluster(t)
	const node, text = "node2", "Tr0ub4dor-and-three"
	bySegment := serve(t, l, "powerless")
	byRouter := serveRouted(t, l, "powerless-routed")

	// The router first: it takes the end of our BFD for a failure.
	router := func(no, text string) {
		t.Helper()
		commands := []string{"configure terminal", fmt.Sprintf("router bgp %d", routerAS)}
		for _, node := range l.Network.Nodes() {
			v4, v6 := l.Network.Addresses(node)
			for _, a := range []netip.Addr{v4, v6} {
				commands = append(commands, strings.TrimSpace(no+"neighbor "+a.String()+" password "+text))
			}
			// FRR takes a neighbor with ttl-security for one that is hops away, whose BFD
			// is another; so each session has one of the two.
			commands = append(commands, no+"neighbor "+v4.String()+" ttl-security hops 1", no+"neighbor "+v6.String()+" bfd")
		}
		_, err := l.Routers.Vtysh(context.Background(), commands...)
		must(t, err)
	}
	t.Cleanup(func() {
		_, _ = l.Cluster.Kubectl(context.Background(), "delete", "secret", "routers", "--namespace="+lab.Namespace, "--ignore-not-found")
		_, _ = l.Cluster.Kubectl(context.Background(), "delete", "bfdprofile", "steady", "--ignore-not-found")
	})
	must(t, l.Cluster.Apply(t.Context(), "apiVersion: belfry.dev/v1beta1\nkind: BFDProfile\nmetadata: {name: steady}\nspec: {receiveInterval: 1000, transmitInterval: 1000, detectMultiplier: 10}\n"))
	password(t, l, "kubernetes.io/basic-auth", text)
	router("", text)
	t.Cleanup(func() { router("no ", "") })
	edited(t, l, "tor4", `{"passwordSecret":{"name":"routers"},"ttlSecurity":1}`, `{"passwordSecret":null,"ttlSecurity":null}`)
	edited(t, l, "tor6", `{"passwordSecret":{"name":"routers"},"bfdProfile":"steady"}`, `{"passwordSecret":null,"bfdProfile":null}`)

	restart := func(start func(context.Context, string, ...string) (*lab.Process, error)) *lab.Process {
		t.Helper()
		p, err := l.Processes.Process(lab.SpeakerOn(node))
		must(t, err)
		if p.Alive() {
			must(t, p.Terminate(context.Background()))
		}
		p, err = start(context.Background(), node)
		must(t, err)
		return p
	}
	p := restart(l.Product.StartPowerlessSpeaker)
	t.Cleanup(func() { restart(l.Product.StartSpeaker) })

	established(t, l, node)
	eventually(t, 60*time.Second, "BFD is up", func() error {
		metrics, err := l.Observers.Metrics(t.Context(), node, speakerMetrics)
		if series := `belfry_bgp_bfd_up{peer="tor6"}`; err == nil && metrics[series] != 1 {
			err = fmt.Errorf("%s is %v", series, metrics[series])
		}
		return err
	})
	for _, a := range byRouter {
		leads(t, l, a, l.Network.Nodes()...)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	must(t, err)
	for _, want := range []string{"Name:\tbelfry-speaker\n", "\nUid:\t65532\t65532\t65532\t65532\n", "\nCapPrm:\t0000000000000000\n", "\nCapEff:\t0000000000000000\n", "\nNoNewPrivs:\t1\n"} {
		if !strings.Contains("\n"+string(status), want) {
			t.Errorf("the speaker is not without powers: no %q in\n%s", want, status)
		}
	}

	// It says so, and owns nothing on the segment.
	eventually(t, 30*time.Second, "its report says that it may not open raw sockets", func() error {
		interfaces := speakerStatuses(t, l)[node].Status.Interfaces
		for _, i := range interfaces {
			if !i.Usable && i.Reason == "raw sockets are not permitted" {
				return nil
			}
		}
		return fmt.Errorf("it says %+v", interfaces)
	})
	for _, a := range bySegment {
		eventually(t, 30*time.Second, "another node answers for "+a.String(), func() error {
			hosts, err := l.Observers.Resolvers(t.Context(), a)
			if err == nil && (len(hosts) != 1 || hosts[0] == node) {
				err = fmt.Errorf("%v answer", hosts)
			}
			return err
		})
	}
}
