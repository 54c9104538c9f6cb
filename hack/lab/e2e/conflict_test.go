package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

// announced returns the condition Announced of a Service.
func announced(t *testing.T, l *lab.Lab, name string) string {
	t.Helper()
	out, err := l.Cluster.Kubectl(t.Context(), "get", "service", name, `--output=jsonpath={.status.conditions[?(@.type=="belfry.dev/Announced")]}`)
	must(t, err)
	return out
}

// squat gives a host addresses that are not its own.
func squat(t *testing.T, l *lab.Lab, host string, addresses ...netip.Addr) (leave func()) {
	t.Helper()
	change := func(ctx context.Context, verb string) error {
		var first error
		for _, a := range addresses {
			args := []string{"ip", "address", verb, netip.PrefixFrom(a, a.BitLen()).String(), "dev", lab.NIC}
			if verb == "add" && a.Is6() {
				args = append(args, "nodad")
			}
			if _, err := l.Network.Exec(ctx, host, args...); err != nil && first == nil {
				first = err
			}
		}
		return first
	}
	must(t, change(t.Context(), "add"))
	t.Cleanup(func() { _ = change(context.Background(), "delete") })
	return func() { must(t, change(t.Context(), "delete")) }
}

func TestAnAddressThatAForeignHostUsesIsWithheldUntilItLeaves(t *testing.T) {
	l := cluster(t)
	used := []netip.Addr{netip.MustParseAddr("198.51.100.249"), netip.MustParseAddr("2001:db8:51::249")}
	leave := squat(t, l, lab.Router, used...)
	must(t, l.Cluster.Apply(t.Context(), fmt.Sprintf(`apiVersion: v1
kind: Service
metadata:
  name: squatted
  annotations: {belfry.dev/loadBalancerIPs: "%v,%v"}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{port: 80}]
`, used[0], used[1])))
	t.Cleanup(func() { _, _ = l.Cluster.Kubectl(context.Background(), "delete", "service", "squatted") })
	eventually(t, 20*time.Second, "the Service gets the foreign host's addresses", func() error {
		if got := ingress(t, l, "squatted"); !slices.Equal(got, used) {
			return fmt.Errorf("it has %v", got)
		}
		return nil
	})
	foreign := ""
	for _, a := range used {
		macs, err := l.Observers.Resolve(t.Context(), a)
		must(t, err)
		if len(macs) != 1 || l.Network.HostOf(macs[0]) != lab.Router {
			t.Errorf("%v answer for %v, want the foreign host alone", macs, a)
		} else {
			foreign = macs[0].String()
		}
	}
	eventually(t, 20*time.Second, "the condition tells who uses them", func() error {
		is := announced(t, l, "squatted")
		for _, want := range []string{`"status":"False"`, `"reason":"AddressConflict"`, foreign, used[0].String(), used[1].String()} {
			if !strings.Contains(is, want) {
				return fmt.Errorf("no %s in %s", want, is)
			}
		}
		return nil
	})
	eventually(t, 20*time.Second, "an Event tells of it", func() error {
		out, err := l.Cluster.Kubectl(t.Context(), "get", "events", "--field-selector=involvedObject.name=squatted,reason=AddressConflict", "--output=jsonpath={.items[*].message}")
		if err == nil && !strings.Contains(out, foreign) {
			err = fmt.Errorf("events: %q", out)
		}
		return err
	})
	leave()
	for _, a := range used {
		answers(t, probe(t, l, a), 60*time.Second, func(host string) bool { return slices.Contains(l.Network.Nodes(), host) })
	}
	eventually(t, 20*time.Second, "the condition names the node", func() error {
		if is := announced(t, l, "squatted"); !strings.Contains(is, `"status":"True"`) {
			return fmt.Errorf("condition %s", is)
		}
		return nil
	})
}

func TestAnAddressInServiceIsDefendedWhereThatIsAskedFor(t *testing.T) {
	l := cluster(t)
	_, err := l.Cluster.Kubectl(t.Context(), "patch", "l2advertisement", "edge", "--type=merge", `--patch={"spec":{"conflictPolicy":"Defend"}}`)
	must(t, err)
	t.Cleanup(func() {
		_, _ = l.Cluster.Kubectl(context.Background(), "patch", "l2advertisement", "edge", "--type=merge", `--patch={"spec":{"conflictPolicy":"Withhold"}}`)
	})
	addresses := serve(t, l, "defended")
	w, err := l.Observers.Watch(lab.Client)
	must(t, err)
	t.Cleanup(w.Close)
	for _, a := range addresses {
		owner := answers(t, probe(t, l, a), 20*time.Second, anybody)
		eventually(t, 20*time.Second, "the burst of the acquisition is over", func() error {
			claims := w.Claims(a)
			gratuitous := slices.DeleteFunc(slices.Clone(claims), func(c lab.Claim) bool { return c.Kind.Answers() })
			if len(gratuitous) == 0 || time.Since(gratuitous[len(gratuitous)-1].At) < 3*time.Second {
				return fmt.Errorf("%d claims", len(gratuitous))
			}
			return nil
		})
		// The foreign host speaks from that address, as hosts do that were told it
		// is theirs.
		squat(t, l, lab.Router, a)
		at := time.Now()
		_, clientV6 := l.Network.Addresses(lab.Client)
		speak := []string{"arping", "-U", "-c1", "-I", lab.NIC, a.String()}
		if a.Is6() {
			speak = []string{"ndisc6", "-1", "-r1", "-s", a.String(), clientV6.String(), lab.NIC}
		}
		eventually(t, 20*time.Second, "the owner claims the address anew", func() error {
			if out, err := l.Network.Exec(t.Context(), lab.Router, speak...); err != nil {
				t.Log(out, err)
			}
			for _, c := range w.Claims(a) {
				if c.At.After(at) && !c.Kind.Answers() && l.Network.HostOf(c.MAC) == owner {
					return nil
				}
			}
			return fmt.Errorf("not among %d claims", len(w.Claims(a)))
		})
		metrics, err := l.Observers.Metrics(t.Context(), owner, speakerMetrics)
		must(t, err)
		router, _ := l.Network.Addresses(lab.Router)
		foreign, err := l.Observers.Resolve(t.Context(), router)
		must(t, err)
		conflicts := metrics[fmt.Sprintf("belfry_speaker_conflicts_total{mac=%q}", foreign[0])]
		if metrics["belfry_speaker_defenses_total"] < 1 || conflicts < 1 {
			t.Errorf("%v: %v defenses, %v conflicts with %v", a, metrics["belfry_speaker_defenses_total"], conflicts, foreign)
		}
	}
}
