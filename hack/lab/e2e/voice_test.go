package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	eventsv1 "k8s.io/api/events/v1"

	"github.com/belfrylb/belfry/hack/lab"
)

// toldIn is how soon after a takeover a Service says the new node.
const toldIn = 1500 * time.Millisecond

// announcedBy waits until the condition of a Service names just a node.
func announcedBy(t *testing.T, l *lab.Lab, within time.Duration, name, node string) {
	t.Helper()
	eventually(t, within, "service "+name+" says that "+node+" announces it", func() error {
		if got := announced(t, l, name); !strings.Contains(got, `"message":"announced by layer 2 from node `+node+`"`) {
			return errors.New(got)
		}
		return nil
	})
}

// movesTold returns the Events that say that a Service moved.
func movesTold(t *testing.T, l *lab.Lab, service string) (notes []string) {
	t.Helper()
	out, err := l.Cluster.Kubectl(t.Context(), "get", "events.events.k8s.io", "--output=json")
	must(t, err)
	var list eventsv1.EventList
	must(t, json.Unmarshal([]byte(out), &list))
	for _, e := range list.Items {
		if e.Regarding.Name == service && e.Reason == "AnnouncementMoved" {
			notes = append(notes, e.Note)
		}
	}
	return notes
}

// event waits until an Event about an object has a reason, and a note with some words.
func event(t *testing.T, l *lab.Lab, about, reason, words string) {
	t.Helper()
	eventually(t, 15*time.Second, "an Event "+reason+" about "+about+" says "+words, func() error {
		out, err := l.Cluster.Kubectl(t.Context(), "get", "events.events.k8s.io", "--output=json")
		if err != nil {
			return err
		}
		var list eventsv1.EventList
		must(t, json.Unmarshal([]byte(out), &list))
		var told []string
		for _, e := range list.Items {
			if e.Regarding.Name == about && e.Reason == reason {
				if strings.Contains(e.Note, words) {
					return nil
				}
				told = append(told, e.Note)
			}
		}
		return fmt.Errorf("there is %q", told)
	})
}

// on has both addresses of a Service announced by one node, which is returned.
func on(t *testing.T, l *lab.Lab, name string) (node string) {
	t.Helper()
	node = l.Network.Nodes()[0]
	move(t, l, name, node)
	announcedBy(t, l, 20*time.Second, name, node)
	return node
}

func TestAServiceSaysTheNewNodeSoonAfterATakeover(t *testing.T) {
	l := cluster(t)
	addresses := serve(t, l, "told-soon")
	leader(t, l)
	for range 3 {
		settle(t, l)
		owner := on(t, l, "told-soon")
		p := probe(t, l, addresses[0])
		answers(t, p, 10*time.Second, only(owner))
		goesOn(t, p, 50)
		must(t, kill(t.Context(), l, owner))
		heir := answers(t, p, 10*time.Second, not(owner))
		taken := time.Now()
		// Each address goes to whom it is spread to.
		eventually(t, 10*time.Second, "the Service does not name the node that is dead", func() error {
			if got := announced(t, l, "told-soon"); strings.Contains(got, owner) || !strings.Contains(got, heir) {
				return errors.New(got)
			}
			return nil
		})
		told := time.Since(taken)
		t.Logf("%s answers instead of %s; the Service says so %d ms later", heir, owner, told.Milliseconds())
		if told > toldIn {
			t.Errorf("the Service says so after %v, want %v at most", told, toldIn)
		}
		p.Stop()
		must(t, l.Processes.Restart(t.Context(), lab.SpeakerOn(owner)))
	}
}

func TestAThousandAddressesMoveWithOneWriteOfTheirNewSpeaker(t *testing.T) {
	l := cluster(t)
	const services = 500
	pool := `apiVersion: belfry.dev/v1beta1
kind: IPAddressPool
metadata: {name: many, labels: {many: "true"}}
spec: {addresses: [198.18.0.0/22, "2001:db8:52::/118"], autoAssign: false}
---
apiVersion: belfry.dev/v1beta1
kind: L2Advertisement
metadata: {name: many}
spec: {ipAddressPools: [many]}
`
	var list strings.Builder
	for i := range services {
		fmt.Fprintf(&list, `---
apiVersion: v1
kind: Service
metadata: {name: many-%d, labels: {many: "true"}, annotations: {belfry.dev/address-pool: many}}
spec:
  type: LoadBalancer
  allocateLoadBalancerNodePorts: false
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{port: 80}]
`, i)
	}
	must(t, l.Cluster.Apply(t.Context(), pool))
	t.Cleanup(func() {
		_, _ = l.Cluster.Kubectl(context.Background(), "delete", "services", "--selector=many=true", "--wait=false")
		_, _ = l.Cluster.KubectlInput(context.Background(), pool, "delete", "--ignore-not-found", "--wait=false", "-f", "-")
	})
	owner, heir, bystander := l.Network.Nodes()[0], l.Network.Nodes()[1], l.Network.Nodes()[2]
	t.Cleanup(func() {
		for _, n := range l.Network.Nodes() {
			must(t, undrain(context.Background(), l, n))
		}
	})
	must(t, drain(t.Context(), l, heir))
	must(t, drain(t.Context(), l, bystander))
	must(t, l.Cluster.Apply(t.Context(), list.String()))
	all := func(node string) func() error {
		return func() error {
			out, err := l.Cluster.Kubectl(t.Context(), "get", "services", "--selector=many=true", `--output=jsonpath={range .items[*]}{.status.conditions[?(@.type=="belfry.dev/Announced")].message}{"\n"}{end}`)
			if n := strings.Count(out, "announced by layer 2 from node "+node+"\n"); err == nil && n != services {
				err = fmt.Errorf("%d of %d Services name %s", n, services, node)
			}
			return err
		}
	}
	eventually(t, 2*time.Minute, "all are announced by "+owner, all(owner))
	must(t, undrain(t.Context(), l, heir))
	settle(t, l)
	quiet(t, l)

	mark, err := l.Cluster.AuditNow()
	must(t, err)
	began := time.Now()
	must(t, kill(t.Context(), l, owner))
	t.Cleanup(func() { must(t, l.Processes.Restart(context.Background(), lab.SpeakerOn(owner))) })
	eventually(t, 2*time.Minute, "all are announced by "+heir, all(heir))
	took := time.Since(began)
	var writes []lab.AuditEvent
	found, err := l.Cluster.Writes(mark, lab.Namespace)
	must(t, err)
	for _, w := range found {
		if strings.HasSuffix(w.User.Username, ":belfry-speaker") && w.ObjectRef.Resource != "tokenreviews" && w.ObjectRef.Resource != "subjectaccessreviews" {
			if w.ObjectRef.Resource != "speakerstatuses" {
				t.Errorf("a speaker wrote %s", w)
			} else if w.ObjectRef.Name == heir {
				writes = append(writes, w)
			}
		}
	}
	t.Logf("%d addresses went to %s with %d writes of its speaker; all Services said so after %v", 2*services, heir, len(writes), took.Round(time.Millisecond))
	// One that says what it took, and perhaps one that says who is gone.
	if len(writes) < 1 || len(writes) > 2 {
		t.Errorf("%s wrote %d times:\n%v", heir, len(writes), writes)
	}
}

// While no controller runs, the wire goes on, speakers write down what they do, and
// nobody is told. What was missed is told once.
func TestWhatHappensWhileNoControllerRunsIsToldOnceAfterwards(t *testing.T) {
	l := cluster(t)
	addresses := serve(t, l, "untold")
	leader(t, l)
	owner := on(t, l, "untold")
	before := len(movesTold(t, l, "untold"))
	p := probe(t, l, addresses[0])
	answers(t, p, 10*time.Second, only(owner))
	for _, name := range controllers {
		c, err := l.Processes.Process(name)
		must(t, err)
		must(t, c.Terminate(t.Context()))
		t.Cleanup(func() {
			if !c.Alive() {
				must(t, l.Processes.Restart(context.Background(), name))
			}
		})
	}
	goesOn(t, p, 300)
	must(t, kill(t.Context(), l, owner))
	t.Cleanup(func() { must(t, l.Processes.Restart(context.Background(), lab.SpeakerOn(owner))) })
	heir := answers(t, p, 10*time.Second, not(owner))
	eventually(t, 10*time.Second, heir+" writes down that it answers", func() error {
		s := speakerStatuses(t, l)[heir].Status.Layer2
		if out := fmt.Sprint(s.Answers); !strings.Contains(out, addresses[0].String()) {
			return errors.New(out)
		}
		return nil
	})
	if got := announced(t, l, "untold"); !strings.Contains(got, owner) {
		t.Errorf("though no controller runs the Service says %s", got)
	}
	for _, name := range controllers {
		revive(t, l, name)
	}
	leader(t, l)
	eventually(t, 10*time.Second, "the Service says the new node", func() error {
		if got := announced(t, l, "untold"); strings.Contains(got, owner) || !strings.Contains(got, heir) {
			return errors.New(got)
		}
		return nil
	})
	quiet(t, l)
	if notes := movesTold(t, l, "untold"); len(notes) != before+1 {
		t.Errorf("%d Events tell of the move: %q", len(notes)-before, notes)
	}
	if hosts := p.Stop().Since(time.Now().Add(-time.Second)).Hosts(); len(hosts) != 1 || hosts[0] != heir {
		t.Errorf("at the end %v answer, want %s", hosts, heir)
	}
}
