package objects

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/internal/lb"
)

func TestRequestIsReadFromAnnotationsAndSpec(t *testing.T) {
	addrs := func(texts ...string) (out []netip.Addr) {
		for _, s := range texts {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	for _, c := range []struct {
		name        string
		annotations map[string]string
		spec        string
		want        lb.Request
	}{
		{"nothing", nil, "", lb.Request{}},
		{"one address", map[string]string{"belfry.dev/loadBalancerIPs": "192.0.2.1"}, "", lb.Request{Addresses: addrs("192.0.2.1")}},
		{"one of each family", map[string]string{"belfry.dev/loadBalancerIPs": " 2001:db8::1 , 192.0.2.1"}, "", lb.Request{Addresses: addrs("2001:db8::1", "192.0.2.1")}},
		{"spec", nil, "192.0.2.1", lb.Request{Addresses: addrs("192.0.2.1")}},
		{"spec, v6", nil, "2001:db8::1", lb.Request{Addresses: addrs("2001:db8::1")}},
		{"spec agrees", map[string]string{"belfry.dev/loadBalancerIPs": "2001:DB8:0::1,192.0.2.1"}, "2001:db8::1", lb.Request{Addresses: addrs("2001:db8::1", "192.0.2.1")}},
		{
			"spec contradicts",
			map[string]string{"belfry.dev/loadBalancerIPs": "192.0.2.2"},
			"192.0.2.1",
			lb.Request{Addresses: addrs("192.0.2.2"), Problems: []string{"spec.loadBalancerIP is 192.0.2.1 but annotation belfry.dev/loadBalancerIPs is 192.0.2.2: make them equal or remove one"}},
		},
		{"spec is nonsense", nil, "vip", lb.Request{Problems: []string{`spec.loadBalancerIP: "vip" is not an IP address`}}},
		{
			"two of one family",
			map[string]string{"belfry.dev/loadBalancerIPs": "2001:db8::1,2001:db8::2"},
			"",
			lb.Request{Addresses: addrs("2001:db8::1"), Problems: []string{"annotation belfry.dev/loadBalancerIPs: 2001:db8::2 is a second IPv6 address: at most one of each family"}},
		},
		{"mapped", map[string]string{"belfry.dev/loadBalancerIPs": "::ffff:192.0.2.1"}, "", lb.Request{Addresses: addrs("192.0.2.1")}},
		{"zone", map[string]string{"belfry.dev/loadBalancerIPs": "fe80::1%eth0"}, "", lb.Request{Problems: []string{`annotation belfry.dev/loadBalancerIPs: "fe80::1%eth0" is not an IP address`}}},
		{"empty is none", map[string]string{"belfry.dev/loadBalancerIPs": ""}, "", lb.Request{}},
		{
			"the rest",
			map[string]string{"belfry.dev/address-pool": " edge ", "belfry.dev/allow-shared-ip": "dns", "belfry.dev/reallocate": "2"},
			"",
			lb.Request{Pool: "edge", SharingKey: "dns", Reallocate: "2"},
		},
		{
			"aliases",
			map[string]string{"metallb.io/loadBalancerIPs": "192.0.2.1", "metallb.universe.tf/address-pool": "edge", "metallb.io/allow-shared-ip": "dns"},
			"",
			lb.Request{Addresses: addrs("192.0.2.1"), Pool: "edge", SharingKey: "dns"},
		},
		{
			"ours before theirs, new before old",
			map[string]string{
				"belfry.dev/address-pool": "ours", "metallb.io/address-pool": "theirs",
				"metallb.io/allow-shared-ip": "new", "metallb.universe.tf/allow-shared-ip": "old",
			},
			"",
			lb.Request{Pool: "ours", SharingKey: "new"},
		},
		{"the output of another is no input", map[string]string{"metallb.io/ip-allocated-from-pool": "edge"}, "", lb.Request{}},
	} {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Annotations: c.annotations}, Spec: corev1.ServiceSpec{LoadBalancerIP: c.spec}}
		if got := request(s); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func FuzzParseAddresses(f *testing.F) {
	for _, seed := range []string{"", "192.0.2.1", "192.0.2.1,2001:db8::1", ",", "::ffff:1.2.3.4,1.2.3.4", "fe80::1%a", " 1.1.1.1 , x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, list string) {
		addresses, problems := parseAddresses(list)
		seen := map[lb.Family]bool{}
		for _, a := range addresses {
			if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
				t.Errorf("%q gives %v", list, a)
			}
			if seen[lb.FamilyOf(a)] {
				t.Errorf("%q gives two of %v", list, lb.FamilyOf(a))
			}
			seen[lb.FamilyOf(a)] = true
		}
		parts := strings.Count(list, ",") + 1
		switch told := len(addresses) + len(problems); {
		case list == "":
		case len(list) > maxList || len(problems) == maxProblems:
			if len(problems) == 0 || told > parts {
				t.Errorf("%q has %d parts but gives %v and %q", list, parts, addresses, problems)
			}
		case told != parts:
			t.Errorf("%q has %d parts but gives %v and %q", list, parts, addresses, problems)
		}
	})
}

func TestServiceIsOursByTypeClassAndLife(t *testing.T) {
	class, other := "belfry.dev/lb", "other"
	now := metav1.Now()
	for _, c := range []struct {
		name  string
		class Class
		edit  func(*corev1.Service)
		ours  bool
	}{
		{"plain", "", func(*corev1.Service) {}, true},
		{"plain, but we have a class", "belfry.dev/lb", func(*corev1.Service) {}, false},
		{"our class", "belfry.dev/lb", func(s *corev1.Service) { s.Spec.LoadBalancerClass = &class }, true},
		{"another class", "belfry.dev/lb", func(s *corev1.Service) { s.Spec.LoadBalancerClass = &other }, false},
		{"a class, but we have none", "", func(s *corev1.Service) { s.Spec.LoadBalancerClass = &class }, false},
		{"another type", "", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort }, false},
		{"being deleted", "", func(s *corev1.Service) { s.DeletionTimestamp = &now }, false},
	} {
		s := &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}}
		c.edit(s)
		got := (Scope{Class: c.class}).Service(s)
		if (got != nil) != c.ours {
			t.Errorf("%s: %+v", c.name, got)
		}
		// Annotations anybody can write; they make nothing ours.
		s.Annotations = map[string]string{
			AnnotationPool: "edge", AnnotationPlaced: "node1", AnnotationReallocate: "2", AnnotationMove: "node1", "belfry.dev/address-pool": "edge",
		}
		if got := (Scope{Class: c.class}).Service(s); (got != nil) != c.ours || got != nil && (got.Marked || got.Released) {
			t.Errorf("%s, annotated: %+v", c.name, got)
		}
		// A record of ours is proof: what carries it concerns us, to be released. A
		// condition without one may be that of another installation.
		for _, condition := range []ConditionType{ConditionAllocated, ConditionAnnounced, ConditionRecorded, ConditionReallocated, ConditionPlaced, ConditionMoved} {
			s.Status.Conditions = []metav1.Condition{{Type: string(condition), Status: "True", Reason: "R", Message: "by belfry-system"}}
			got := (Scope{Class: c.class}).Service(s)
			switch {
			case c.ours || condition == ConditionRecorded:
				if got == nil || got.Released == c.ours || !got.Marked {
					t.Errorf("%s, with %s: %+v", c.name, condition, got)
				}
			case got != nil:
				t.Errorf("%s, with %s and no record: %+v", c.name, condition, got)
			}
		}
	}
}

func TestWhatAnotherInstallationWroteIsTakenButNotOurs(t *testing.T) {
	class := "belfry.dev/lb"
	marked := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{AnnotationPool: "edge", "belfry.dev/address-pool": "edge"}},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: &class},
		Status: corev1.ServiceStatus{
			LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}, {IP: "2001:db8::1"}}},
			Conditions: []metav1.Condition{
				{Type: string(ConditionAllocated), Status: "True", Reason: "Allocated"},
				{Type: string(ConditionRecorded), Status: "True", Reason: "Recorded", Message: "192.0.2.1 from edge, 2001:db8::1 from edge; by second"},
			},
		},
	}
	got := Scope{Role: Allocating, Namespace: "belfry-system"}.Service(marked)
	if got == nil || !got.Foreign || got.Released || len(got.Assigned) != 2 || got.Request.Pool != "" {
		t.Errorf("to whom allocates: %+v", got)
	}
	if got := (Scope{Namespace: "belfry-system"}).Service(marked); got != nil {
		t.Errorf("to a speaker: %+v", got)
	}
	// Its own installation releases it when it serves another class.
	if got := (Scope{Role: Allocating, Namespace: "second"}).Service(marked); got == nil || got.Foreign || !got.Released {
		t.Errorf("to the one that wrote it: %+v", got)
	}
	// Whoever serves its class now takes it over, whoever wrote it.
	got = Scope{Role: Allocating, Namespace: "belfry-system", Class: "belfry.dev/lb"}.Service(marked)
	if got == nil || got.Foreign || got.Released || got.Request.Pool != "edge" {
		t.Errorf("to whom it belongs: %+v", got)
	}
	// Without a record nobody knows whose it is: it keeps what it has, in either family.
	recorded := marked.Status.Conditions
	marked.Status.Conditions = recorded[:1]
	for _, namespace := range []string{"belfry-system", "second"} {
		got := Scope{Role: Allocating, Namespace: namespace}.Service(marked)
		if got == nil || !got.Foreign || got.Released || len(got.Assigned) != 2 {
			t.Errorf("to %s, without a record: %+v", namespace, got)
		}
	}
	marked.Status.Conditions = recorded
	// What is no LoadBalancer any more is cleaned by the one that wrote it.
	marked.Spec.Type, marked.Spec.LoadBalancerClass = corev1.ServiceTypeClusterIP, nil
	if got := (Scope{Role: Allocating, Namespace: "belfry-system"}).Service(marked); got != nil {
		t.Errorf("another one's leftovers: %+v", got)
	}
	if got := (Scope{Role: Allocating, Namespace: "second"}).Service(marked); got == nil {
		t.Error("its own leftovers are not seen")
	}
}

func TestServiceIsReduced(t *testing.T) {
	vip, proxy := corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy
	policy := corev1.IPFamilyPolicyPreferDualStack
	created := metav1.NewTime(time.Unix(1700000000, 0))
	since := metav1.NewTime(time.Unix(1700000100, 0))
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "web", Name: "a", UID: "u", ResourceVersion: "7", CreationTimestamp: created,
			Labels:      map[string]string{"tier": "front"},
			Annotations: map[string]string{AnnotationPool: "forged", AnnotationPlaced: "forged", AnnotationReallocate: "2", AnnotationMove: " node2 again", "belfry.dev/allow-shared-ip": "dns"},
		},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ClusterIPs: []string{"fd00::1", "10.0.0.1"}, IPFamilyPolicy: &policy,
			ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal,
			Selector:              map[string]string{"b": "2", "a": "1"},
			Ports:                 []corev1.ServicePort{{Protocol: "TCP", Port: 80}, {Protocol: "UDP", Port: 53}},
		},
		Status: corev1.ServiceStatus{
			LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "2001:db8::1", IPMode: &vip}, {IP: "192.0.2.1", IPMode: &vip}}},
			Conditions: []metav1.Condition{
				{Type: "else.example/Ready", Status: "True", Reason: "R"},
				{Type: "belfry.dev/Allocated", Status: "True", Reason: "Allocated", Message: "m", LastTransitionTime: since},
				{Type: "belfry.dev/Recorded", Status: "True", Reason: "Recorded", Message: "192.0.2.1 from edge, 2001:db8::1 from six"},
				{Type: "belfry.dev/Reallocated", Status: "True", Reason: "Honored", Message: "1"},
				{Type: "belfry.dev/Placed", Status: "True", Reason: "Recorded", Message: "192.0.2.1 on node1, 2001:db8::1 on node2"},
				{Type: "belfry.dev/Moved", Status: "False", Reason: "Refused", Message: "node2"},
				{Type: "belfry.dev/Sharing", Status: "True", Reason: "Recorded", Message: sharing("0123").Message},
			},
		},
	}
	got := Scope{Role: Allocating}.Service(s)
	want := lb.Service{
		Key: lb.ServiceKey{Namespace: "web", Name: "a"}, UID: "u", Created: created.Time, Labels: "tier=front",
		Families: []lb.Family{lb.IPv6, lb.IPv4}, FamilyPolicy: lb.PreferDualStack, TrafficPolicy: lb.TrafficLocal,
		Ports: []lb.Port{{Protocol: lb.TCP, Number: 80}, {Protocol: lb.UDP, Number: 53}}, PodSelector: "a=1,b=2",
		Request:       lb.Request{Reallocate: "2", SharingKey: "dns", Move: "node2 again", MoveTo: "node2"},
		Assigned:      []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.1")},
		AssignedPools: []string{"six", "edge"}, Reallocated: "1", Terms: "0123", Placed: []string{"node2", "node1"},
		Moved: lb.Move{Token: "node2", Refused: true},
	}
	if !reflect.DeepEqual(got.Service, want) {
		t.Errorf("\n%+v\nwant\n%+v", got.Service, want)
	}
	if c := (Condition{"True", "Allocated", "m", since}); got.Allocated != c || !got.Exact || !got.Marked || got.Version != "7" {
		t.Errorf("%+v", got)
	}
	if c := got.sharing; c.Message != sharing("0123").Message || (Scope{Role: Announcing}).Service(s).Terms != "" {
		t.Errorf("of terms it keeps %+v", c)
	}
	for name, edit := range map[string]func(*corev1.LoadBalancerIngress){
		"proxy mode": func(in *corev1.LoadBalancerIngress) { in.IPMode = &proxy },
		"no mode":    func(in *corev1.LoadBalancerIngress) { in.IPMode = nil },
		"ports":      func(in *corev1.LoadBalancerIngress) { in.Ports = []corev1.PortStatus{{Port: 80, Protocol: "TCP"}} },
		"hostname":   func(in *corev1.LoadBalancerIngress) { in.Hostname = "web.example" },
		"spelling":   func(in *corev1.LoadBalancerIngress) { in.IP = "2001:0db8::1" },
		"garbage":    func(in *corev1.LoadBalancerIngress) { in.IP = "?" },
	} {
		c := s.DeepCopy()
		edit(&c.Status.LoadBalancer.Ingress[0])
		if (Scope{}).Service(c).Exact {
			t.Errorf("%s passes for what we write", name)
		}
	}
}

// kept is how many bytes a value refers to, itself included.
func kept(v reflect.Value) int {
	n := int(v.Type().Size())
	switch v.Kind() {
	case reflect.String:
		n += v.Len()
	case reflect.Slice:
		for i := range v.Len() {
			n += kept(v.Index(i))
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			n += kept(k) + kept(v.MapIndex(k))
		}
	case reflect.Struct:
		if v.Type().PkgPath() == "github.com/belfrylb/belfry/internal/lb" || v.Type() == reflect.TypeFor[Service]() || v.Type() == reflect.TypeFor[Condition]() {
			n = 0
			for i := range v.NumField() {
				n += kept(v.Field(i))
			}
		}
	case reflect.Pointer:
		if !v.IsNil() {
			n += kept(v.Elem())
		}
	}
	return n
}

func TestWhatIsKeptOfAServiceIsBoundedWhateverItsAuthorWrites(t *testing.T) {
	plain := func() *corev1.Service {
		return &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "a", UID: "u", Labels: map[string]string{}, Annotations: map[string]string{}},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeLoadBalancer, ClusterIPs: []string{"10.0.0.1", "fd00::1"}, Selector: map[string]string{},
				ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal,
			},
		}
	}
	commas, long := strings.Repeat(",", 250_000), strings.Repeat("x", 250_000)
	type greed struct {
		name string
		edit func(*corev1.Service)
		most int
	}
	var asked []greed // whatever is asked for, by whichever name
	for _, prefix := range prefixes {
		for _, ask := range []string{askAddresses, askPool, askSharing, "reallocate", "move-to"} {
			for _, value := range []string{commas, long, strings.Repeat("2001:db8::1,", 20_000), strings.Repeat("\x00\xff<", 80_000)} {
				asked = append(asked, greed{prefix + ask + ": " + value[:12], func(s *corev1.Service) { s.Annotations[prefix+ask] = value }, 1024})
			}
		}
	}
	for _, c := range append(asked, []greed{
		{"list of addresses", func(s *corev1.Service) { s.Annotations["belfry.dev/loadBalancerIPs"] = commas }, 1024},
		{"short list of many", func(s *corev1.Service) { s.Annotations["belfry.dev/loadBalancerIPs"] = commas[:maxList] }, 1024},
		{"list of IPv6 addresses", func(s *corev1.Service) {
			s.Annotations["metallb.io/loadBalancerIPs"] = strings.Repeat("2001:db8::1,", 20_000)
		}, 1024},
		{"one long address", func(s *corev1.Service) { s.Annotations["belfry.dev/loadBalancerIPs"] = long[:maxList] }, 1024},
		{"spec", func(s *corev1.Service) { s.Spec.LoadBalancerIP = long }, 1024},
		{"spec against a list", func(s *corev1.Service) {
			s.Spec.LoadBalancerIP, s.Annotations["belfry.dev/loadBalancerIPs"] = "2001:db8::1", strings.Repeat(" ", maxList-3)+"::2"
		}, 1024},
		{"pool", func(s *corev1.Service) { s.Annotations["belfry.dev/address-pool"] = long }, 1024},
		{"sharing key", func(s *corev1.Service) { s.Annotations["belfry.dev/allow-shared-ip"] = long }, 1024},
		{"reallocate", func(s *corev1.Service) { s.Annotations["belfry.dev/reallocate"] = long }, 1024},
		{"move", func(s *corev1.Service) { s.Annotations["belfry.dev/move-to"] = "node1 " + long }, 1024},
		{"what we wrote", func(s *corev1.Service) {
			for _, k := range []string{AnnotationPool, AnnotationPlaced} {
				s.Annotations[k] = commas
			}
		}, 1024},
		{"a few large labels", func(s *corev1.Service) {
			for i := range 5000 {
				s.Labels[fmt.Sprintf("%s/%d", long[:60], i)] = long[:63]
			}
		}, 1280},
		{"many small labels", func(s *corev1.Service) {
			for i := range 50_000 {
				s.Labels[fmt.Sprint(i)] = ""
			}
		}, 1280},
		{"selector", func(s *corev1.Service) {
			s.Annotations["belfry.dev/allow-shared-ip"] = "k"
			for i := range 50_000 {
				s.Spec.Selector[fmt.Sprint(i)] = ""
			}
		}, 1024},
		{"ports", func(s *corev1.Service) {
			for i := range 60_000 {
				s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint(i), Protocol: "TCP", Port: int32(i)})
			}
		}, 0},
		{"most ports of one that shares", func(s *corev1.Service) {
			s.Annotations["belfry.dev/allow-shared-ip"] = "k"
			for i := range maxSharedPorts {
				s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Protocol: "TCP", Port: int32(i + 1)})
			}
		}, 512},
		{"ports of one that shares", func(s *corev1.Service) {
			s.Annotations["belfry.dev/allow-shared-ip"] = "k"
			for i := range 60_000 {
				s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Protocol: "TCP", Port: int32(i)})
			}
		}, 1024},
	}...) {
		for _, role := range []Role{Announcing, Allocating} {
			o := Scope{Role: role}
			before := kept(reflect.ValueOf(o.Service(plain())))
			s := plain()
			c.edit(s)
			reduced := o.Service(s)
			if more := kept(reflect.ValueOf(reduced)) - before; more > c.most {
				t.Errorf("%s: %d bytes more are kept in role %d, want at most %d", c.name, more, role, c.most)
			}
			if r := reduced.Request; role == Announcing && !reflect.DeepEqual(r, lb.Request{}) {
				t.Errorf("%s: whoever announces reads the request: %+v", c.name, r)
			}
			told, _ := json.Marshal(reduced.Request.Problems)
			if len(told) > 700 {
				t.Errorf("%s: %d bytes of problems: %s", c.name, len(told), told)
			}
		}
	}
}

// A text that is cut keeps nothing alive of what it was cut from, and all that its author
// may write together is bounded.
func TestWhatIsCutFromAServiceIsNotKeptAlive(t *testing.T) {
	long, blanks := strings.Repeat("x", 250_000), strings.Repeat(" ", 250_000)
	greedy := func(int) *corev1.Service {
		s := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "a", UID: "u", Annotations: map[string]string{
				"belfry.dev/loadBalancerIPs": "2001:db8::1" + blanks, "belfry.dev/address-pool": "edge" + blanks,
				"belfry.dev/allow-shared-ip": strings.Clone(long), "belfry.dev/reallocate": strings.Clone(long), "belfry.dev/move-to": blanks + "node1",
				AnnotationPool: strings.Clone(long), AnnotationPlaced: strings.Clone(long), "example.com/more": strings.Clone(long),
			}},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeLoadBalancer, ClusterIPs: []string{"10.0.0.1", "fd00::1"}, LoadBalancerIP: blanks + "2001:db8::2",
				ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, Selector: map[string]string{"a": strings.Clone(long)},
			},
		}
		for j := range 1000 {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: strings.Clone(long[:15]), Protocol: "TCP", Port: int32(j + 1)})
			s.Spec.ExternalIPs = append(s.Spec.ExternalIPs, "2001:db8::1")
		}
		return s
	}
	plain := func(int) *corev1.Service {
		return &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "a", UID: "u"},
			Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, ClusterIPs: []string{"10.0.0.1", "fd00::1"}},
		}
	}
	labeled := func(i int) *corev1.Service {
		s := plain(i)
		s.Labels = map[string]string{}
		for j := range 1000 {
			s.Labels[fmt.Sprintf("%d-%d", i, j)] = strings.Clone(long[:63])
		}
		return s
	}
	both := func(i int) *corev1.Service {
		s := greedy(i)
		s.Labels = labeled(i).Labels
		return s
	}
	sharing := func(i int) *corev1.Service {
		s := plain(i)
		s.Annotations = map[string]string{"belfry.dev/allow-shared-ip": "k"}
		for j := range maxSharedPorts {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Protocol: "SCTP", Port: int32(j + 1)})
		}
		return s
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	const n = 100
	each := func(role Role, of func(int) *corev1.Service) int {
		all := make([]*Service, n)
		before := heap()
		for i := range all {
			all[i] = Scope{Role: role}.Service(of(i))
		}
		defer runtime.KeepAlive(all)
		return int(heap()-before) / n
	}
	for _, c := range []struct {
		role    Role
		of      func(int) *corev1.Service
		most    int
		whoever string
	}{
		{Announcing, greedy, 64, "annotations, ports and selectors for a speaker"},
		{Allocating, greedy, 2048, "annotations, ports and selectors for the controller"},
		{Announcing, labeled, 1280, "labels for a speaker"},
		{Allocating, labeled, 1280, "labels for the controller"},
		{Announcing, both, 2048, "all of it for a speaker"},
		{Allocating, both, 2048, "all of it for the controller"},
		{Announcing, sharing, 64, "ports of one that shares, for a speaker"},
		{Allocating, sharing, 1024, "ports of one that shares, for the controller"},
	} {
		more := each(c.role, c.of) - each(c.role, plain)
		t.Logf("%s: %d bytes", c.whoever, more)
		if more > c.most {
			t.Errorf("%s: %d bytes more live, want at most %d", c.whoever, more, c.most)
		}
	}
}

func TestNoWriteOfAServiceExceedsItsLimit(t *testing.T) {
	// JSON spells each of these characters in six bytes.
	long := strings.Repeat("<", 100_000)
	names := []string{strings.Repeat("a", maxName), strings.Repeat("b", maxName)}
	s := Service{Service: lb.Service{UID: strings.Repeat("u", 36)}, Version: strings.Repeat("9", 20)}
	w := ServiceWrite{
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:1111:2222:3333:4444:5555:6666")},
		Pools:     names, Placed: names, Reallocated: strings.Repeat("<", maxToken), Moved: lb.Move{Token: strings.Repeat("<", maxToken)},
		Allocated: Condition{Status: "False", Reason: "InvalidRequest", Message: long},
		Announced: &Condition{Status: "False", Reason: "NoEndpoint", Message: long},
	}
	patch, _ := s.Patch(w, AllParts, metav1.Now())
	body, err := json.Marshal(patch)
	if err != nil || len(body) > 16<<10 || len(body) < 8<<10 {
		t.Errorf("%d bytes, want at most 16 KiB and nearly that; %v", len(body), err)
	}
	// What was cut is what it should be: nothing is written again.
	s.Allocated, s.Announced = w.Allocated, *w.Announced
	s.Allocated.Message, s.Announced.Message = Cut(long, MaxMessage), Cut(long, MaxMessage)
	s.recorded, s.reallocated, s.moved = w.record(""), fact("Honored", w.Reallocated), answer(w.Moved)
	s.placed = fact("Recorded", pairs(w.Addresses, recordOn, names))
	s.Assigned, s.Exact, s.poolShown, s.placeShown = w.Addresses, true, told(joinNames(names)), told(joinNames(names))
	if again, changed := s.Patch(w, AllParts, metav1.Now()); changed != 0 {
		t.Errorf("written again: %.300v", again)
	}
}

func TestAnnotationNamesEachOrAll(t *testing.T) {
	for _, c := range []struct {
		pools      []string
		annotation string
	}{
		{nil, ""},
		{[]string{"edge"}, "edge"},
		{[]string{"edge", "edge"}, "edge"},
		{[]string{"edge", "six"}, "edge,six"},
	} {
		if got := joinNames(c.pools); got != c.annotation {
			t.Errorf("joinNames(%q) = %q", c.pools, got)
		}
	}
}

func TestTheRecordRoundTripsAndNamesEachAddress(t *testing.T) {
	four, six, strange := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("198.51.100.1")
	for _, c := range []struct {
		gift gift
		text string
	}{
		{gift{}, ""},
		{gift{[]netip.Addr{four}, []string{"edge"}, "belfry-system"}, "192.0.2.1 from edge"},
		{gift{[]netip.Addr{six, four}, []string{"six", "edge.from.by"}, "second"}, "2001:db8::1 from six, 192.0.2.1 from edge.from.by; by second"},
		{gift{nil, nil, "second"}, "by second"},
		{gift{nil, nil, "belfry-system"}, "by belfry-system"},
	} {
		if got := c.gift.String(); got != c.text {
			t.Errorf("%q, want %q", got, c.text)
		}
		if got := parseRecord(c.text); !reflect.DeepEqual(got, c.gift) {
			t.Errorf("%q is read as %+v", c.text, got)
		}
	}
	// Whatever else the status shows, and in which order, has no record.
	r := parseRecord("192.0.2.1 from edge, 2001:db8::1 from six")
	if got := namesOf([]netip.Addr{strange, six, four}, r.addresses, r.pools); !slices.Equal(got, []string{"", "six", "edge"}) {
		t.Errorf("%q", got)
	}
	if got := namesOf([]netip.Addr{strange}, r.addresses, r.pools); got != nil {
		t.Errorf("%q", got)
	}
	for _, text := range []string{"from", "192.0.2.1", "192.0.2.1 from", " from edge", "a from b, c from d; ; by"} {
		if got := parseRecord(text); len(got.addresses) > 0 {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
}

func TestWhatIsTakenOutOfAStatusIsStillHeldByOurRecord(t *testing.T) {
	vip, proxy := corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy
	ip := func(a string, mode *corev1.LoadBalancerIPMode) corev1.LoadBalancerIngress {
		return corev1.LoadBalancerIngress{IP: a, IPMode: mode}
	}
	name := corev1.LoadBalancerIngress{Hostname: "lb.example.com"}
	for _, c := range []struct {
		what, record           string
		ingress                []corev1.LoadBalancerIngress
		held, pools, withdrawn string
		exact                  bool
	}{
		{"all is shown", "192.0.2.1 from edge, 2001:db8::1 from six", []corev1.LoadBalancerIngress{ip("192.0.2.1", &vip), ip("2001:db8::1", &vip)}, "[192.0.2.1 2001:db8::1]", "[edge six]", "[]", true},
		{"all is gone", "192.0.2.1 from edge, 2001:db8::1 from six", nil, "[192.0.2.1 2001:db8::1]", "[edge six]", "[192.0.2.1 2001:db8::1]", false},
		{"a name instead", "2001:db8::1 from six", []corev1.LoadBalancerIngress{name}, "[2001:db8::1]", "[six]", "[2001:db8::1]", false},
		{"other addresses instead", "192.0.2.1 from edge", []corev1.LoadBalancerIngress{ip("192.0.2.2", &vip), ip("203.0.113.1", &vip)}, "[192.0.2.1 192.0.2.2 203.0.113.1]", "[edge  ]", "[192.0.2.1]", false},
		{"one is gone", "192.0.2.1 from edge, 2001:db8::1 from six", []corev1.LoadBalancerIngress{ip("2001:db8::1", &vip)}, "[192.0.2.1 2001:db8::1]", "[edge six]", "[192.0.2.1]", false},
		{"another mode", "2001:db8::1 from six", []corev1.LoadBalancerIngress{ip("2001:db8::1", &proxy)}, "[2001:db8::1]", "[six]", "[]", false},
		{"no record", "", []corev1.LoadBalancerIngress{name}, "[]", "[]", "[]", false},
	} {
		s := &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}}
		s.Status.LoadBalancer.Ingress = c.ingress
		s.Status.Conditions = []metav1.Condition{{Type: string(ConditionRecorded), Status: "True", Message: c.record}}
		got := Scope{Role: Allocating, Namespace: DefaultNamespace}.Service(s)
		if fmt.Sprint(got.Assigned) != c.held || fmt.Sprint(got.AssignedPools) != c.pools || fmt.Sprint(got.Withdrawn) != c.withdrawn || got.Exact != c.exact {
			t.Errorf("%s: holds %v from %v, withdrawn %v, exact %v", c.what, got.Assigned, got.AssignedPools, got.Withdrawn, got.Exact)
		}
		// Whoever announces takes nothing but what is shown, and recorded.
		shown, _ := assigned(c.ingress)
		shown = slices.DeleteFunc(shown, func(a netip.Addr) bool { return !strings.Contains(c.record, a.String()+" from ") })
		if got := (Scope{Namespace: DefaultNamespace}).Service(s); fmt.Sprint(got.Assigned) != fmt.Sprint(shown) || got.Withdrawn != nil {
			t.Errorf("%s: announced are %v", c.what, got.Assigned)
		}
	}
}

func TestPatchHoldsTheDifferenceOnly(t *testing.T) {
	now := metav1.NewTime(time.Unix(1700000000, 0).UTC())
	before := metav1.NewTime(time.Unix(1600000000, 0).UTC())
	four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	allocated := Condition{Status: "True", Reason: "Allocated", Message: "m"}
	with := func(edit func(*Service)) Service {
		s := Service{Service: lb.Service{UID: "u", Assigned: []netip.Addr{four}}, Version: "7", Exact: true, poolShown: told("edge")}
		s.Allocated = Condition{"True", "Allocated", "m", before}
		s.recorded = Condition{"True", "Recorded", "192.0.2.1 from edge", before}
		if edit != nil {
			edit(&s)
		}
		return s
	}
	const preconditions = `"resourceVersion":"7","uid":"u"`
	for _, c := range []struct {
		name string
		s    Service
		w    ServiceWrite
		want string
	}{
		{"nothing", with(nil), ServiceWrite{Addresses: []netip.Addr{four}, Pools: []string{"edge"}, Allocated: allocated}, ""},
		{
			"everything",
			Service{Service: lb.Service{UID: "u"}, Version: "7", Exact: true},
			ServiceWrite{Addresses: []netip.Addr{six, four}, Pools: []string{"six", "edge"}, Placed: []string{"n2", "n1"}, Reallocated: "2", Moved: lb.Move{Token: "n2", Refused: true}, Terms: "0123", Allocated: allocated, Announced: &Condition{Status: "False", Reason: "NoEndpoint", Message: "n"}},
			`{"metadata":{"annotations":{"belfry.dev/l2-node":"n2,n1","belfry.dev/pool":"six,edge"},` + preconditions + `},` +
				`"status":{"conditions":[` +
				`{"type":"belfry.dev/Allocated","status":"True","lastTransitionTime":"2023-11-14T22:13:20Z","reason":"Allocated","message":"m"},` +
				`{"type":"belfry.dev/Recorded","status":"True","lastTransitionTime":"2023-11-14T22:13:20Z","reason":"Recorded","message":"2001:db8::1 from six, 192.0.2.1 from edge"},` +
				`{"type":"belfry.dev/Reallocated","status":"True","lastTransitionTime":"2023-11-14T22:13:20Z","reason":"Honored","message":"2"},` +
				`{"type":"belfry.dev/Placed","status":"True","lastTransitionTime":"2023-11-14T22:13:20Z","reason":"Recorded","message":"2001:db8::1 on n2, 192.0.2.1 on n1"},` +
				`{"type":"belfry.dev/Moved","status":"False","lastTransitionTime":"2023-11-14T22:13:20Z","reason":"Refused","message":"n2"},` +
				`{"type":"belfry.dev/Sharing","status":"True","lastTransitionTime":"2023-11-14T22:13:20Z","reason":"Recorded","message":"shares what it holds on terms 0123"},` +
				`{"type":"belfry.dev/Announced","status":"False","lastTransitionTime":"2023-11-14T22:13:20Z","reason":"NoEndpoint","message":"n"}],` +
				`"loadBalancer":{"ingress":[{"ip":"2001:db8::1","ipMode":"VIP"},{"ip":"192.0.2.1","ipMode":"VIP"}]}}}`,
		},
		{
			"a message alone keeps the time", with(nil),
			ServiceWrite{Addresses: []netip.Addr{four}, Pools: []string{"edge"}, Allocated: Condition{Status: "True", Reason: "Kept", Message: "k"}},
			`{"metadata":{` + preconditions + `},"status":{"conditions":[` +
				`{"type":"belfry.dev/Allocated","status":"True","lastTransitionTime":"2020-09-13T12:26:40Z","reason":"Kept","message":"k"}]}}`,
		},
		{
			"a strange ingress is set right", with(func(s *Service) { s.Exact = false }),
			ServiceWrite{Addresses: []netip.Addr{four}, Pools: []string{"edge"}, Allocated: allocated},
			`{"metadata":{` + preconditions + `},"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1","ipMode":"VIP"}]}}}`,
		},
		{
			"release removes every trace", with(func(s *Service) {
				s.reallocated, s.placeShown = Condition{"True", "Honored", "1", before}, told("forged")
				s.placed, s.moved = Condition{"True", "Recorded", "192.0.2.1 on node1", before}, Condition{"True", "Honored", "node1", before}
				s.Announced, s.sharing = Condition{"True", "Announced", "a", before}, sharing("0123")
			}),
			ServiceWrite{Announced: &Condition{}},
			`{"metadata":{"annotations":{"belfry.dev/l2-node":null,"belfry.dev/pool":null},` + preconditions + `},` +
				`"status":{"conditions":[{"$patch":"delete","type":"belfry.dev/Allocated"},{"$patch":"delete","type":"belfry.dev/Recorded"},{"$patch":"delete","type":"belfry.dev/Reallocated"},{"$patch":"delete","type":"belfry.dev/Placed"},{"$patch":"delete","type":"belfry.dev/Moved"},{"$patch":"delete","type":"belfry.dev/Sharing"},{"$patch":"delete","type":"belfry.dev/Announced"}],` +
				`"loadBalancer":{"ingress":null}}}`,
		},
		{
			"what others left stays while we have nothing better",
			Service{Service: lb.Service{UID: "u", Assigned: []netip.Addr{six}}, Version: "7", Exact: true, Allocated: allocated},
			ServiceWrite{Left: []netip.Addr{six}, Allocated: allocated},
			"",
		},
		{
			"so does a name",
			Service{Service: lb.Service{UID: "u"}, Version: "7", Allocated: allocated, ingress: []corev1.LoadBalancerIngress{{Hostname: "lb.example.com"}}},
			ServiceWrite{Allocated: allocated},
			"",
		},
		{
			"and goes for an address of ours",
			Service{Service: lb.Service{UID: "u"}, Version: "7", poolShown: told("edge"), Allocated: allocated, recorded: Condition{"True", "Recorded", "192.0.2.1 from edge", before}, ingress: []corev1.LoadBalancerIngress{{Hostname: "lb.example.com"}}},
			ServiceWrite{Addresses: []netip.Addr{four}, Pools: []string{"edge"}, Allocated: allocated},
			`{"metadata":{` + preconditions + `},"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1","ipMode":"VIP"}]}}}`,
		},
		{
			"ours alone is taken back", with(func(s *Service) {
				s.Exact, s.Assigned, s.poolShown = false, []netip.Addr{four, six}, 0
				s.ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}, {IP: "2001:0db8::1"}, {Hostname: "lb.example.com"}}
			}),
			ServiceWrite{Left: []netip.Addr{six}, Announced: &Condition{}},
			`{"metadata":{` + preconditions + `},"status":{"conditions":[{"$patch":"delete","type":"belfry.dev/Allocated"},{"$patch":"delete","type":"belfry.dev/Recorded"}],` +
				`"loadBalancer":{"ingress":[{"ip":"2001:0db8::1"},{"hostname":"lb.example.com"}]}}}`,
		},
		{
			"what the speakers say is left alone", with(func(s *Service) { s.Announced = Condition{"True", "Announced", "a", before} }),
			ServiceWrite{Addresses: []netip.Addr{four}, Pools: []string{"edge"}, Allocated: allocated},
			"",
		},
	} {
		patch, changed := c.s.Patch(c.w, AllParts, now)
		got := ""
		if changed != 0 {
			b, err := json.Marshal(patch)
			if err != nil {
				t.Fatal(err)
			}
			got = string(b)
		}
		if got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, got, c.want)
		}
		if c.s.Missing(c.w) != changed || c.s.Carries(c.w) != (changed == 0) {
			t.Errorf("%s: Missing, Carries and patch disagree", c.name)
		}
		// Each part by itself holds nothing of the others.
		for p := range NumParts {
			if part, is := c.s.Patch(c.w, Parts(0).With(p), now); is != changed&Parts(0).With(p) || is == 0 && len(part) > 1 {
				t.Errorf("%s: part %d by itself changes %b: %v", c.name, p, is, part)
			}
		}
	}
}

func TestCutKeepsTextsWithinLimits(t *testing.T) {
	for in, want := range map[string]string{
		"short":         "short",
		"exactly ten":   "exactly...",
		"ää ää ää ää":   "ää ä...",
		"a, b, c, d, e": "a, b, c...",
		"日本語日本語日本語":     "日本...",
	} {
		if got := Cut(in, 10); got != want {
			t.Errorf("Cut(%q) = %q, want %q", in, got, want)
		}
	}
}

// As many labels are read as a Service ordinarily has, and what does not fit is told: to
// whom it is asked of, since a selector that names it could not be acted on.
func TestLabelsAreReadUpToABound(t *testing.T) {
	labels := map[string]string{}
	for i := range 17 { // as of a chart, with what others add
		labels[fmt.Sprintf("app.kubernetes.io/part-of-%02d", i)] = strings.Repeat("v", 20)
	}
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}}
	got := Scope{Role: Allocating}.Service(s)
	for k, v := range labels {
		if is, ok := got.Labels.Get(k); !ok || is != v {
			t.Errorf("label %s is %q, %v", k, is, ok)
		}
	}
	if len(got.Request.Problems) > 0 {
		t.Errorf("%q", got.Request.Problems)
	}
	// To the byte.
	for n, whole := range map[int]bool{maxLabels - len("a="): true, maxLabels - len("a=") + 1: false} {
		s.Labels = map[string]string{"a": strings.Repeat("v", n)}
		got := Scope{Role: Allocating}.Service(s)
		if told := len(got.Request.Problems) == 0; told != whole || (got.Labels != "") != whole {
			t.Errorf("of %d bytes is read %q, told %q", n, got.Labels, got.Request.Problems)
		}
	}
	// The first by their keys, whatever the order of a map.
	s.Labels = map[string]string{"a": "1", "b": strings.Repeat("v", maxLabels), "c": "2"}
	if got := (Scope{Role: Announcing}).Service(s); got.Labels != "a=1" {
		t.Errorf("read is %q", got.Labels)
	}
}
