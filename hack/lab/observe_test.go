package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

// hold makes a host's kernel answer for an address.
func hold(t *testing.T, l *lab.Lab, host string, address netip.Addr) {
	t.Helper()
	args := []string{"ip", "address", "add", fmt.Sprintf("%s/%d", address, address.BitLen()), "dev", lab.NIC}
	if address.Is6() {
		args = append(args, "nodad")
	}
	_, err := l.Network.Exec(t.Context(), host, args...)
	must(t, err)
	t.Cleanup(func() { release(t, l, host, address) })
}

func release(t *testing.T, l *lab.Lab, host string, address netip.Addr) {
	t.Helper()
	// It may have been released already.
	_, _ = l.Network.Exec(context.Background(), host, "ip", "address", "delete", fmt.Sprintf("%s/%d", address, address.BitLen()), "dev", lab.NIC)
}

var families = map[string]netip.Addr{
	"IPv4": netip.MustParseAddr("198.51.100.240"),
	"IPv6": netip.MustParseAddr("2001:db8:51::240"),
}

func TestTheProberTellsWhoAnsweredWhen(t *testing.T) {
	l := shared.Get(t)
	for family, address := range families {
		t.Run(family, func(t *testing.T) {
			prober, err := l.Observers.Probe(address, 5*time.Millisecond)
			must(t, err)
			by := func(host string) {
				t.Helper()
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				if _, err := prober.AwaitAnswer(ctx, func(a lab.Answer) bool { return a.Host == host }); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, 5*time.Second, func() error {
				if len(prober.Report().Questions) == 0 {
					return errNotYet
				}
				return nil
			})
			hold(t, l, "node1", address)
			by("node1")
			hold(t, l, "node2", address)
			by("node2")
			release(t, l, "node1", address)
			alone := time.Now()
			by("node2")
			macs, err := l.Observers.Resolvers(t.Context(), address)
			must(t, err)
			if !slices.Equal(macs, []string{"node2"}) {
				t.Errorf("the independent tool sees %v, want node2", macs)
			}
			r := prober.Stop()
			if r.Err != nil {
				t.Error(r.Err)
			}
			if got := r.Hosts(); !slices.Equal(got, []string{"node1", "node2"}) {
				t.Errorf("answered: %v\n%s", got, r)
			}
			if first := r.Timeline()[0]; len(first.Hosts) > 0 {
				t.Errorf("somebody answered before anybody held it:\n%s", r)
			}
			if len(r.Contested()) == 0 {
				t.Errorf("no question was contested while two held it:\n%s", r)
			}
			if c := r.Since(alone).Contested(); len(c) > 0 {
				t.Errorf("%d questions were contested after one had gone:\n%s", len(c), r)
			}
			if gap, _ := r.LongestGap(); gap <= 0 {
				t.Errorf("the longest gap is %s, though there was a silence at first:\n%s", gap, r)
			}
		})
	}
}

func TestTheWatcherSeesEveryClaimAndWhose(t *testing.T) {
	l := shared.Get(t)
	for family, address := range families {
		t.Run(family, func(t *testing.T) {
			hold(t, l, "node3", address)
			onClient, err := l.Observers.Watch(lab.Client)
			must(t, err)
			defer onClient.Close()
			onSwitch, err := l.Observers.Watch(lab.Switch)
			must(t, err)
			defer onSwitch.Close()
			// Asked by another host than the client, the answer is for that host
			// alone: the switch sees it, the client does not.
			answer := lab.SolicitedNA
			if address.Is4() {
				answer = lab.ARPReply
				_, err = l.Network.Exec(t.Context(), lab.Router, "arping", "-c", "1", "-w", "2", "-I", lab.NIC, address.String())
			} else {
				_, err = l.Network.Exec(t.Context(), lab.Router, "ndisc6", "-r", "2", address.String(), lab.NIC)
			}
			must(t, err)
			is := func(kind lab.ClaimKind) func(lab.Claim) bool {
				return func(c lab.Claim) bool { return c.Kind == kind && c.Host == "node3" && c.Address == address }
			}
			eventually(t, 5*time.Second, func() error {
				if claims := onSwitch.Claims(address); !slices.ContainsFunc(claims, is(answer)) {
					return fmt.Errorf("the switch saw %v", claims)
				}
				return nil
			})
			if address.Is4() {
				_, err = l.Network.Exec(t.Context(), "node3", "arping", "-U", "-c", "1", "-I", lab.NIC, address.String())
				must(t, err)
				eventually(t, 5*time.Second, func() error {
					if claims := onClient.Claims(address); !slices.ContainsFunc(claims, is(lab.ARPAnnounce)) {
						return fmt.Errorf("the client saw %v", claims)
					}
					return nil
				})
			}
			if _, err := l.Observers.Resolve(t.Context(), address); err != nil {
				t.Fatal(err)
			}
			eventually(t, 5*time.Second, func() error {
				if claims := onClient.Claims(address); !slices.ContainsFunc(claims, is(answer)) {
					return fmt.Errorf("the client saw %v", claims)
				}
				return nil
			})
		})
	}
}

func TestBackendsServeOnEveryNodeAndTellWhoAsked(t *testing.T) {
	l := shared.Get(t)
	ctx := t.Context()
	must(t, l.Machines.Deploy(ctx, "default", "web", 3))
	t.Cleanup(func() {
		_, _ = l.Cluster.Kubectl(context.Background(), "delete", "service,deployment", "web", "--ignore-not-found")
	})
	_, err := l.Cluster.Kubectl(ctx, "expose", "deployment", "web", "--port=80", "--type=NodePort",
		`--overrides={"spec":{"ipFamilyPolicy":"RequireDualStack","externalTrafficPolicy":"Local"}}`)
	must(t, err)
	var port int
	out, err := l.Cluster.Kubectl(ctx, "get", "service", "web", "--output=jsonpath={.spec.ports[0].nodePort}")
	must(t, err)
	_, err = fmt.Sscan(out, &port)
	must(t, err)
	clientV4, clientV6 := l.Network.Addresses(lab.Client)
	for _, node := range l.Network.Nodes() {
		v4, v6 := l.Network.Addresses(node)
		for _, to := range []struct{ node, client netip.Addr }{{v4, clientV4}, {v6, clientV6}} {
			eventually(t, 10*time.Second, func() error {
				r, err := l.Observers.Curl(ctx, to.node, port)
				if err != nil {
					return err
				}
				if r.Node != node || r.Client != to.client || !strings.HasPrefix(r.Pod, "web-") {
					return fmt.Errorf("%s says %+v, want %s and client %s", to.node, r, node, to.client)
				}
				return nil
			})
		}
	}

	t.Run("an unready Pod is no endpoint", func(t *testing.T) {
		pod, err := l.Cluster.Kubectl(ctx, "get", "pods", "--selector=app=web", "--field-selector=spec.nodeName=node1", "--output=name")
		must(t, err)
		_, err = l.Cluster.Kubectl(ctx, "annotate", strings.TrimSpace(pod), lab.AnnotationReady+"=false")
		must(t, err)
		node1, _ := l.Network.Addresses("node1")
		eventually(t, 10*time.Second, func() error {
			if r, err := l.Observers.Curl(ctx, node1, port); err == nil {
				return fmt.Errorf("node1 still answers: %+v", r)
			}
			return nil
		})
		_, err = l.Cluster.Kubectl(ctx, "annotate", strings.TrimSpace(pod), lab.AnnotationReady+"-")
		must(t, err)
		eventually(t, 10*time.Second, func() error {
			_, err := l.Observers.Curl(ctx, node1, port)
			return err
		})
	})

	t.Run("a steady load measures an outage", func(t *testing.T) {
		node2, _ := l.Network.Addresses("node2")
		load := l.Observers.Load(node2, port, 10*time.Millisecond)
		served := func(failures int) func() error {
			return func() error {
				r := load.Result()
				if r.Requests == len(r.Failed) || len(r.Failed) < failures {
					return fmt.Errorf("so far: %s", r)
				}
				return nil
			}
		}
		eventually(t, 5*time.Second, served(0))
		must(t, l.Network.CutLink(ctx, "node2"))
		cut := time.Now()
		eventually(t, 5*time.Second, served(10))
		must(t, l.Network.HealLink(ctx, "node2"))
		lasted := time.Since(cut)
		eventually(t, 10*time.Second, func() error {
			_, err := l.Observers.Curl(ctx, node2, port)
			return err
		})
		r := load.Stop()
		if len(r.Failed) < 10 || r.LongestGap < lasted {
			t.Errorf("an outage of %s was measured as %s", lasted, r)
		}
		if r.Nodes != 1 {
			t.Errorf("a Local node port led to %d nodes", r.Nodes)
		}
	})

	t.Run("a deleted Pod is gone and replaced", func(t *testing.T) {
		old, err := l.Cluster.Kubectl(ctx, "get", "pods", "--selector=app=web", "--output=name")
		must(t, err)
		_, err = l.Cluster.Kubectl(ctx, "delete", "pods", "--selector=app=web", "--wait=true")
		must(t, err)
		_, err = l.Cluster.Kubectl(ctx, "rollout", "status", "deployment/web", "--timeout=30s")
		must(t, err)
		replaced, err := l.Cluster.Kubectl(ctx, "get", "pods", "--selector=app=web", "--output=name")
		must(t, err)
		for name := range strings.FieldsSeq(replaced) {
			if strings.Contains(old, name) {
				t.Errorf("%s was deleted and is there", name)
			}
		}
	})
}

// A node says it of a Pod that is not there, three seconds after it began to ask for
// its hardware address; and of a port of its own on which nothing listens, at once.
func TestACaptureTellsWhoRefusedAConnection(t *testing.T) {
	l := shared.Get(t)
	capture, err := l.Observers.Capture(t.Context(), "capture", lab.Client, "node1")
	must(t, err)
	t.Cleanup(func() { must(t, capture.Remove()) })
	v4, v6 := l.Network.Addresses("node1")
	cases := []struct {
		address string
		want    error
		told    string
	}{
		{"10.244.1.200", syscall.EHOSTUNREACH, fmt.Sprintf("IP %s: ICMP host 10.244.1.200 unreachable", v4)},
		{"fd00:10:244:1::200", syscall.EHOSTUNREACH, fmt.Sprintf("IP6 %s: ICMP6, destination unreachable, unreachable address fd00:10:244:1::200", v6)},
		{v4.String(), syscall.ECONNREFUSED, fmt.Sprintf("IP %s.9: Flags [R.]", v4)},
		{v6.String(), syscall.ECONNREFUSED, fmt.Sprintf("IP6 %s.9: Flags [R.]", v6)},
	}
	var asking sync.WaitGroup
	for _, c := range cases {
		asking.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if _, err := l.Observers.Get(ctx, lab.Client, netip.MustParseAddr(c.address), 9); !errors.Is(err, c.want) {
				t.Errorf("a connection to %s: %v, want %v", c.address, err, c.want)
			}
		})
	}
	asking.Wait()
	lines, err := capture.Explain(t.Context())
	must(t, err)
	events, err := os.ReadFile(filepath.Join(l.LogDir(), "capture", "node1.events"))
	must(t, err)
	for _, c := range cases {
		if c.want == syscall.EHOSTUNREACH && !strings.Contains(string(events), c.address+" dev ") {
			t.Errorf("node1's events have nothing of its neighbor %s:\n%s", c.address, events)
		}
		for _, host := range []string{lab.Client, "node1"} {
			if !slices.ContainsFunc(lines, func(line string) bool {
				return strings.HasPrefix(line, host+" saw ") && strings.HasSuffix(line, c.told)
			}) {
				t.Errorf("no line tells that %s saw %q:\n%s", host, c.told, strings.Join(lines, "\n"))
			}
		}
	}
}
