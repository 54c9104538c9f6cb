package controller_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/kube/apitest"
	"github.com/belfrylb/belfry/internal/transcript"
)

// Each file in testdata is a cluster in virtual time, in which a controller leads from
// the first "lead" on:
//
//	node n [address,...]
//	pool name range,... [retention=1h] [drain] [strategy=Hash] [kept]
//	service name [single] [port=80] [key=k] [ips=a,b] [pool=p] [reallocate=token] [class=c]
//	l2 name [pools=a,b] [rebalance=token]
//	bgp name [med=1]
//	peer name address
//	delete kind name
//	stop, lead
//	wait duration
//
// After each line a tenth of a second passes. "wait" prints what happened since the last
// one: writes of our own objects with when they were
// made and what was written, Events of addresses and objects, and what the Services
// have in the end. What Services are told of their announcing has tests of its own.
func TestTranscripts(t *testing.T) {
	transcript.RunWithin(t, "testdata/*.txt", synctest.Test, func(t *testing.T) transcript.World {
		w := &story{bubble: newBubble(t), since: time.Now()}
		w.api.Before(w.note)
		return w
	})
}

type story struct {
	*bubble
	stop func()

	mu    sync.Mutex // several writers ask at the same time
	since time.Time  // the end of the last "wait"
	lines []string
}

func (w *story) note(write apitest.Write) *metav1.Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	if write.Resource != "events" && write.Resource != "services" {
		w.lines = append(w.lines, fmt.Sprintf("%7.2fs %s\n%s", time.Since(w.since).Seconds(), write, written(w.T, write.Body)))
	}
	return nil
}

func (w *story) Line(line string) string {
	words := strings.Fields(line)
	what := words[0]
	var names []string
	options := map[string]string{}
	for _, word := range words[1:] {
		if key, value, is := strings.Cut(word, "="); is || slices.Contains([]string{"single", "drain", "kept"}, word) {
			options[key] = value
		} else {
			names = append(names, word)
		}
	}
	switch what {
	case "lead":
		w.stop = w.lead()
	case "stop":
		w.stop()
	case "node":
		w.node(names[0], func(n *corev1.Node) {
			if len(names) == 1 {
				return
			}
			for _, a := range strings.Split(names[1], ",") {
				n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
			}
		})
	case "pool":
		w.makePool(names[0], names[1], options)
	case "service":
		w.makeService(names[0], options)
	case "l2":
		w.makeL2(names[0], options)
	case "bgp":
		ad := &v1beta1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: names[0]}}
		if was, ok := apitest.Get(w.api, ad); ok {
			ad = was
		}
		ad.Spec.MED = new(int64(transcript.Number(w.T, options["med"], 0)))
		apitest.Put(w.api, ad)
	case "peer":
		peer := &v1beta1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: names[0]}}
		if was, ok := apitest.Get(w.api, peer); ok {
			peer = was
		}
		peer.Spec = v1beta1.BGPPeerSpec{
			MyASN: 65000, PeerASN: 65001, PeerAddress: v1beta1.PeerAddress(names[1]),
			AddressFamilies: []v1beta1.AddressFamily{v1beta1.IPv4, v1beta1.IPv6},
		}
		apitest.Put(w.api, peer)
	case "delete":
		w.api.Delete(map[string]apitest.Object{
			"node": &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: names[1]}},
			"pool": &v1beta1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: names[1]}},
			"l2":   &v1beta1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: names[1]}},
			"bgp":  &v1beta1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: names[1]}},
			"peer": &v1beta1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: names[1]}},
			"service": &corev1.Service{ObjectMeta: metav1.ObjectMeta{
				Namespace: "default", Name: names[1],
			}},
		}[names[0]])
	case "wait":
		return w.wait(transcript.Duration(w.T, names[0]))
	default:
		w.Fatalf("unknown: %s", line)
	}
	w.quiet() // so that nothing depends on which kind of object is seen first
	return ""
}

func (w *story) makePool(name, ranges string, options map[string]string) {
	var addresses []v1beta1.AddressRange
	for _, r := range strings.Split(ranges, ",") {
		addresses = append(addresses, v1beta1.AddressRange(r))
	}
	w.pool(name, func(p *v1beta1.IPAddressPoolSpec) {
		p.Retention = v1beta1.Duration(options["retention"])
		_, p.Drain = options["drain"]
		if s := options["strategy"]; s != "" {
			p.Strategy = v1beta1.Strategy(s)
		}
	}, addresses...)
	if _, kept := options["kept"]; kept { // by another's finalizer
		p, _ := apitest.Get(w.api, &v1beta1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: name}})
		p.Finalizers = append(p.Finalizers, "example.com/other")
		apitest.Put(w.api, p)
	}
}

func (w *story) makeService(name string, options map[string]string) {
	w.expose(name, func(s *corev1.Service) {
		if was, ok := apitest.Get(w.api, s); ok {
			was.Spec = s.Spec
			*s = *was
		}
		for option, annotation := range map[string]string{
			"key": "allow-shared-ip", "ips": "loadBalancerIPs", "pool": "address-pool", "reallocate": "reallocate",
		} {
			delete(s.Annotations, "belfry.dev/"+annotation)
			if value := options[option]; value != "" {
				annotated("belfry.dev/"+annotation, value)(s)
			}
		}
		s.Spec.Ports[0].Port = int32(transcript.Number(w.T, options["port"], 80))
		if _, is := options["single"]; is {
			single(s)
		}
		if class := options["class"]; class != "" {
			s.Spec.LoadBalancerClass = &class
		}
	})
}

func (w *story) makeL2(name string, options map[string]string) {
	w.advertise(func(ad *v1beta1.L2Advertisement) {
		ad.Name = name
		ad.Spec.IPAddressPools = nil
		for _, p := range strings.Fields(strings.ReplaceAll(options["pools"], ",", " ")) {
			ad.Spec.IPAddressPools = append(ad.Spec.IPAddressPools, v1beta1.ObjectName(p))
		}
		ad.Annotations = nil
		if token := options["rebalance"]; token != "" {
			ad.Annotations = map[string]string{"belfry.dev/rebalance": token}
		}
	})
}

// wait lets time go on and prints what happens.
func (w *story) wait(d time.Duration) string {
	w.passes(d)
	var out strings.Builder
	w.mu.Lock()
	slices.Sort(w.lines)
	for _, l := range w.lines {
		out.WriteString(strings.TrimLeft(l, " "))
	}
	w.lines, w.since = nil, time.Now()
	w.mu.Unlock()
	var events []string
	for _, e := range apitest.List(w.api, &eventsv1.Event{}) {
		if e.Action != "Announce" {
			events = append(events, fmt.Sprintf("%s %s %s/%s: %s\n", e.Type, e.Reason, e.Regarding.Kind, e.Regarding.Name, e.Note))
		}
		w.api.Delete(e)
	}
	slices.Sort(events)
	out.WriteString(strings.Join(events, ""))
	for _, s := range apitest.List(w.api, &corev1.Service{}) {
		fmt.Fprintf(&out, "%s", s.Name)
		for _, in := range s.Status.LoadBalancer.Ingress {
			out.WriteString(" " + in.IP)
		}
		if c := meta.FindStatusCondition(s.Status.Conditions, "belfry.dev/Allocated"); c != nil {
			fmt.Fprintf(&out, " %s: %s", c.Reason, c.Message)
		}
		out.WriteString("\n")
	}
	return out.String()
}

// written prints what a patch says, one field a line.
func written(t *testing.T, patch []byte) string {
	var all map[string]any
	numbers := json.NewDecoder(bytes.NewReader(patch))
	numbers.UseNumber()
	if err := numbers.Decode(&all); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	tell(&out, "", all)
	return out.String()
}

// tell prints the plain fields of an object on one line, and what is in it below.
func tell(out *strings.Builder, name string, v map[string]any) {
	line := name
	for _, k := range slices.Sorted(maps.Keys(v)) {
		switch x := v[k].(type) {
		case nil, map[string]any, []any:
		default:
			if k != "uid" && k != "resourceVersion" {
				line += fmt.Sprintf(" %s=%v", k, x)
			}
		}
	}
	if line != name {
		fmt.Fprintf(out, "  %s\n", line)
	}
	for _, k := range slices.Sorted(maps.Keys(v)) {
		switch x := v[k].(type) {
		case map[string]any:
			tell(out, k, x)
		case []any:
			texts := k
			for _, e := range x {
				if object, is := e.(map[string]any); is {
					tell(out, k, object)
				} else {
					texts += fmt.Sprintf(" %v", e)
				}
			}
			if texts != k {
				fmt.Fprintf(out, "  %s\n", texts)
			}
		}
	}
}
