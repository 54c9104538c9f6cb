package config

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/lb"
)

var epoch = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// pool returns a pool of the given age in minutes: the greater, the older.
func pool(name string, age int, addresses ...v1beta1.AddressRange) *v1beta1.IPAddressPool {
	return &v1beta1.IPAddressPool{
		ObjectMeta: metav1.ObjectMeta{Name: name, Generation: 3, CreationTimestamp: metav1.NewTime(epoch.Add(-time.Duration(age) * time.Minute))},
		Spec:       v1beta1.IPAddressPoolSpec{Addresses: addresses},
	}
}

func words(ranges []lb.AddressRange) string {
	var all []string
	for _, r := range ranges {
		all = append(all, r.String())
	}
	return strings.Join(all, " ")
}

func TestAPoolIsItsAddressesMergedLessTheExcluded(t *testing.T) {
	for _, c := range []struct {
		name              string
		addresses, except []v1beta1.AddressRange
		want              string
	}{
		{
			"forms and families mixed, overlapping and adjacent",
			[]v1beta1.AddressRange{"2001:db8::8/125", "192.0.2.8/30", "192.0.2.0 - 192.0.2.9", "192.0.2.12", "2001:db8::/125"},
			nil,
			"192.0.2.0-192.0.2.12 2001:db8::-2001:db8::f",
		},
		{
			"excluded in the middle, at an end and elsewhere",
			[]v1beta1.AddressRange{"192.0.2.0/28", "2001:db8::/64"},
			[]v1beta1.AddressRange{"192.0.2.4-192.0.2.5", "192.0.2.15", "198.51.100.0/24", "2001:db8::"},
			"192.0.2.0-192.0.2.3 192.0.2.6-192.0.2.14 2001:db8::1-2001:db8::ffff:ffff:ffff:ffff",
		},
		{
			"everything excluded",
			[]v1beta1.AddressRange{"192.0.2.0/28", "2001:db8::/126"},
			[]v1beta1.AddressRange{"192.0.2.0/24", "2001:db8::/64"},
			"",
		},
	} {
		p := pool("edge", 0, c.addresses...)
		p.Spec.ExcludeAddresses = c.except
		got, problems := Pool(p)
		if words(got.Ranges) != c.want || len(problems) > 0 {
			t.Errorf("%s: %s, %v; want %s", c.name, words(got.Ranges), problems, c.want)
		}
	}
}

func TestAnUnsetPoolFieldMeansWhatTheSchemaDefaultsItTo(t *testing.T) {
	got, problems := Pool(pool("edge", 5, "192.0.2.1", "2001:db8::1"))
	one := func(s string) lb.AddressRange {
		a := netip.MustParseAddr(s)
		return lb.AddressRange{First: a, Last: a}
	}
	want := lb.Pool{
		Name: "edge", Created: epoch.Add(-5 * time.Minute), AutoAssign: true,
		Ranges: []lb.AddressRange{one("192.0.2.1"), one("2001:db8::1")},
	}
	if !reflect.DeepEqual(got, want) || len(problems) > 0 {
		t.Errorf("%+v, %v\nwant %+v", got, problems, want)
	}
}

func TestEveryPoolFieldIsCompiled(t *testing.T) {
	no := false
	p := pool("edge", 0, "192.0.2.1")
	p.Labels = map[string]string{"zone": "a"}
	p.DeletionTimestamp = &metav1.Time{Time: epoch}
	p.Spec = v1beta1.IPAddressPoolSpec{
		Addresses: []v1beta1.AddressRange{"2001:db8::/127"}, ExcludeAddresses: []v1beta1.AddressRange{"2001:db8::"},
		AutoAssign: &no, AvoidBuggyIPs: true, SharedAcrossNamespaces: true, Drain: true,
		OrphanPolicy: v1beta1.OrphanReassign, Strategy: v1beta1.StrategyHash, Retention: "1h30m",
		ServiceAllocation: &v1beta1.ServiceAllocation{
			Priority: 7, Namespaces: []v1beta1.NamespaceName{"web"}, PerNamespaceLimit: 2,
			NamespaceSelectors: []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"team": "b", "env": "prod"}}},
			ServiceSelectors: []v1beta1.LabelSelector{{MatchExpressions: []v1beta1.LabelSelectorRequirement{
				{Key: "a", Operator: v1beta1.LabelIn, Values: []v1beta1.LabelValue{"1", ""}},
				{Key: "b", Operator: v1beta1.LabelNotIn, Values: []v1beta1.LabelValue{"2"}},
				{Key: "c", Operator: v1beta1.LabelExists},
				{Key: "d", Operator: v1beta1.LabelDoesNotExist},
			}}, {}},
		},
	}
	p.Status.Freed = []v1beta1.FreedAddress{
		{Address: "2001:db8::1", Service: "web/a", Time: metav1.NewTime(epoch)},
		{Address: "not an address", Service: "web/a", Time: metav1.NewTime(epoch)},
		{Address: "192.0.2.1", Service: "not a key", Time: metav1.NewTime(epoch)},
		{Address: "192.0.2.2", Time: metav1.NewTime(epoch)}, // it was left for another
		{Address: "192.0.2.4,6-7", Time: metav1.NewTime(epoch)},
	}
	got, problems := Pool(p)
	last := netip.MustParseAddr("2001:db8::1")
	want := lb.Pool{
		Name: "edge", Created: epoch, Labels: map[string]string{"zone": "a"}, Deleting: true,
		Ranges:        []lb.AddressRange{{First: last, Last: last}},
		AvoidBuggyIPs: true, SharedAcrossNamespaces: true, Drain: true,
		Orphans: lb.OrphanReassign, Strategy: lb.Hash, Retention: 90 * time.Minute,
		Allocation: &lb.ServiceAllocation{
			Priority: 7, Namespaces: []string{"web"}, PerNamespaceLimit: 2,
			NamespaceSelectors: []lb.Selector{{{Key: "env", Operator: lb.In, Values: []string{"prod"}}, {Key: "team", Operator: lb.In, Values: []string{"b"}}}},
			ServiceSelectors: []lb.Selector{{
				{Key: "a", Operator: lb.In, Values: []string{"1", ""}},
				{Key: "b", Operator: lb.NotIn, Values: []string{"2"}},
				{Key: "c", Operator: lb.Exists},
				{Key: "d", Operator: lb.DoesNotExist},
			}, {}},
		},
		Freed: []lb.FreedAddress{
			{Address: last, Service: lb.ServiceKey{Namespace: "web", Name: "a"}, At: epoch},
			{Address: netip.MustParseAddr("192.0.2.2"), At: epoch},
			{Address: netip.MustParseAddr("192.0.2.4"), At: epoch},
			{Address: netip.MustParseAddr("192.0.2.6"), At: epoch},
			{Address: netip.MustParseAddr("192.0.2.7"), At: epoch},
		},
	}
	if !reflect.DeepEqual(got, want) || len(problems) > 0 {
		t.Errorf("%+v, %v\nwant %+v", got, problems, want)
	}
}

// A field that neither Pool nor L2Advertisement looks at would be ignored in
// silence; so each is set by itself here, and must make a difference.
func TestNoSpecFieldIsIgnored(t *testing.T) {
	check := func(kind string, spec reflect.Type, compile func(set func(reflect.Value)) any) {
		plain := compile(func(reflect.Value) {})
		for i := range spec.NumField() {
			field := spec.Field(i)
			got := compile(func(s reflect.Value) { fill(t, s.Field(i)) })
			if reflect.DeepEqual(got, plain) {
				t.Errorf("%s: setting %s makes no difference", kind, field.Name)
			}
		}
	}
	check("IPAddressPool", reflect.TypeFor[v1beta1.IPAddressPoolSpec](), func(set func(reflect.Value)) any {
		p := pool("edge", 0, "192.0.2.0/24")
		set(reflect.ValueOf(&p.Spec).Elem())
		got, problems := Pool(p)
		return []any{got, problems}
	})
	check("ServiceAllocation", reflect.TypeFor[v1beta1.ServiceAllocation](), func(set func(reflect.Value)) any {
		p := pool("edge", 0, "192.0.2.0/24")
		p.Spec.ServiceAllocation = &v1beta1.ServiceAllocation{}
		set(reflect.ValueOf(p.Spec.ServiceAllocation).Elem())
		got, problems := Pool(p)
		return []any{got, problems}
	})
	check("L2Advertisement", reflect.TypeFor[v1beta1.L2AdvertisementSpec](), func(set func(reflect.Value)) any {
		a := &v1beta1.L2Advertisement{}
		set(reflect.ValueOf(&a.Spec).Elem())
		got, problems := L2Advertisement(a)
		return []any{got, problems}
	})
}

// fill sets a value to something other than its zero value.
func fill(t *testing.T, v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int32:
		v.SetInt(7)
	case reflect.String:
		v.SetString("192.0.2.128")
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		if v.Index(0).Kind() == reflect.String {
			fill(t, v.Index(0))
		}
	default:
		t.Fatalf("do not know how to fill %v", v.Type())
	}
}

func TestEveryAdvertisementFieldIsCompiled(t *testing.T) {
	zone := v1beta1.LabelSelector{MatchLabels: map[string]v1beta1.LabelValue{"zone": "a"}}
	want := lb.Selector{{Key: "zone", Operator: lb.In, Values: []string{"a"}}}
	a := &v1beta1.L2Advertisement{
		ObjectMeta: metav1.ObjectMeta{Name: "lan", CreationTimestamp: metav1.NewTime(epoch)},
		Spec: v1beta1.L2AdvertisementSpec{
			IPAddressPools: []v1beta1.ObjectName{"edge"}, IPAddressPoolSelectors: []v1beta1.LabelSelector{zone},
			ServiceSelectors: []v1beta1.LabelSelector{zone, {}}, NodeSelectors: []v1beta1.LabelSelector{zone},
			PreferredNodes: []v1beta1.NodePreference{{Weight: 100, Preference: zone}},
			Interfaces:     []v1beta1.InterfacePattern{"eth[0-3]"}, ExcludeInterfaces: []v1beta1.InterfacePattern{},
			Failback: v1beta1.FailbackImmediate, ConflictPolicy: v1beta1.ConflictDefend,
		},
	}
	got, problems := L2Advertisement(a)
	if w := (lb.L2Advertisement{
		Name: "lan", Created: epoch, Scope: lb.Scope{
			Pools: []string{"edge"}, PoolSelectors: []lb.Selector{want},
			ServiceSelectors: []lb.Selector{want, {}}, NodeSelectors: []lb.Selector{want},
		},
		PreferredNodes: []lb.NodePreference{{Weight: 100, Preference: want}},
		Interfaces:     []string{"eth[0-3]"},
		Failback:       lb.FailbackImmediate, ConflictPolicy: lb.ConflictDefend,
	}); !reflect.DeepEqual(got, w) || len(problems) > 0 {
		t.Errorf("%+v, %v\nwant %+v", got, problems, w)
	}
	a.Spec.ExcludeInterfaces = nil
	if got, _ := L2Advertisement(a); !slices.Contains(got.ExcludeInterfaces, "veth*") {
		t.Errorf("without excludeInterfaces, %v are excluded", got.ExcludeInterfaces)
	}
}

func TestEveryProblemOfAnObjectIsToldByItsField(t *testing.T) {
	broken := v1beta1.LabelSelector{MatchExpressions: []v1beta1.LabelSelectorRequirement{
		{Key: "a", Operator: "Near"},
		{Key: "a", Operator: v1beta1.LabelIn},
		{Key: "a", Operator: v1beta1.LabelExists, Values: []v1beta1.LabelValue{"b"}},
	}}
	p := pool("edge", 0, "192.0.2.1/24", "192.0.2.9", "2001:db8::9-2001:db8::1")
	p.Spec.ExcludeAddresses = []v1beta1.AddressRange{"elsewhere"}
	p.Spec.ServiceAllocation = &v1beta1.ServiceAllocation{
		Priority: -1, PerNamespaceLimit: -2,
		NamespaceSelectors: []v1beta1.LabelSelector{{}, broken}, ServiceSelectors: []v1beta1.LabelSelector{{MatchExpressions: broken.MatchExpressions[:1]}},
	}
	p.Spec.OrphanPolicy, p.Spec.Strategy, p.Spec.Retention = "Eat", "Random", "-5m"
	got, problems := Pool(p)
	checkProblems(t, problems,
		`spec.addresses[0]: "192.0.2.1/24": a CIDR must have no bits`,
		`spec.addresses[2]: "2001:db8::9-2001:db8::1": the first`,
		`spec.excludeAddresses[0]: "elsewhere": want an address`,
		`spec.serviceAllocation.priority: -1 is negative`,
		`spec.serviceAllocation.namespaceSelectors[1].matchExpressions[0].operator: "Near" is none of`,
		`spec.serviceAllocation.namespaceSelectors[1].matchExpressions[1].values: operator In needs`,
		`spec.serviceAllocation.namespaceSelectors[1].matchExpressions[2].values: operator Exists takes no`,
		`spec.serviceAllocation.serviceSelectors[0].matchExpressions[0].operator: "Near" is none of`,
		`spec.serviceAllocation.perNamespaceLimit: -2 is negative`,
		`spec.orphanPolicy: "Eat" is neither`,
		`spec.strategy: "Random" is none`,
		`spec.retention: a duration must not be negative`,
	)
	if !got.Drain {
		t.Error("a pool with problems hands out addresses")
	}
	if words(got.Ranges) != "192.0.2.9" {
		t.Errorf("what is right with the pool is %s, want 192.0.2.9", words(got.Ranges))
	}
	for _, s := range append(got.Allocation.ServiceSelectors, got.Allocation.NamespaceSelectors[1]) {
		if s.Matches(map[string]string{"a": "b"}) {
			t.Errorf("the broken selector %v matches something", s)
		}
	}
	if _, problems := Pool(pool("edge", 0)); len(problems) != 1 || problems[0].Field != "spec.addresses" {
		t.Errorf("a pool without addresses: %v", problems)
	}
	p = pool("edge", 0, "192.0.2.1")
	p.Spec.Retention = "soon"
	_, problems = Pool(p)
	checkProblems(t, problems, `spec.retention: "soon" is not a duration`)

	_, problems = L2Advertisement(&v1beta1.L2Advertisement{Spec: v1beta1.L2AdvertisementSpec{
		IPAddressPoolSelectors: []v1beta1.LabelSelector{{MatchExpressions: broken.MatchExpressions[:1]}},
		ServiceSelectors:       []v1beta1.LabelSelector{{MatchExpressions: broken.MatchExpressions[:1]}},
		NodeSelectors:          []v1beta1.LabelSelector{{MatchExpressions: broken.MatchExpressions[:1]}},
		PreferredNodes:         []v1beta1.NodePreference{{Weight: 101}, {Weight: 1, Preference: v1beta1.LabelSelector{MatchExpressions: broken.MatchExpressions[:1]}}},
		Interfaces:             []v1beta1.InterfacePattern{"eth[0", "enp0s31f6-toolong"},
		ExcludeInterfaces:      []v1beta1.InterfacePattern{"a b", ""},
		Failback:               "Maybe", ConflictPolicy: "Fight",
	}})
	checkProblems(t, problems,
		`spec.ipAddressPoolSelectors[0].matchExpressions[0].operator: "Near"`,
		`spec.serviceSelectors[0].matchExpressions[0].operator: "Near"`,
		`spec.nodeSelectors[0].matchExpressions[0].operator: "Near"`,
		`spec.preferredNodes[0].weight: 101 is not from 1 to 100`,
		`spec.preferredNodes[1].preference.matchExpressions[0].operator: "Near"`,
		`spec.interfaces[0]: "eth[0": an interface pattern`,
		`spec.interfaces[1]: "enp0s31f6-toolong": an interface name has at most 15`,
		`spec.excludeInterfaces[0]: "a b": an interface has no blanks`,
		`spec.excludeInterfaces[1]: "": an interface has a name`,
		`spec.failback: "Maybe" is neither`,
		`spec.conflictPolicy: "Fight" is none`,
	)
}

func checkProblems(t *testing.T, got []Problem, want ...string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Errorf("missing: %s", want[i])
		case i >= len(want):
			t.Errorf("besides: %s", got[i])
		case !strings.HasPrefix(got[i].String(), want[i]) || got[i].Reason != v1beta1.ReasonInvalid:
			t.Errorf("got %s (%s)\nwant %s", got[i], got[i].Reason, want[i])
		}
	}
}

func TestTheOlderPoolKeepsAnOverlap(t *testing.T) {
	objects := Objects{Pools: []*v1beta1.IPAddressPool{
		pool("young", 1, "192.0.2.0/24", "2001:db8::/64"),
		pool("old", 3, "192.0.2.0-192.0.2.9"),
		pool("older", 4, "192.0.2.8-192.0.2.19", "2001:db8::/126"),
		pool("apart", 2, "198.51.100.0/24"),
		pool("a-twin", 3, "192.0.2.5"),
	}}
	c := Compile(objects)
	for i, want := range []struct{ name, ranges, finding string }{
		{"a-twin", "192.0.2.5", "Accepted true: Acted on as written."},
		{"apart", "198.51.100.0-198.51.100.255", "Accepted true: Acted on as written."},
		{"old", "192.0.2.0-192.0.2.4 192.0.2.6-192.0.2.7", "Overlaps false: " +
			"spec.addresses: 192.0.2.8-192.0.2.9 belongs to the older pool older and is not handed out from this one; what is in use stays. " +
			"spec.addresses: 192.0.2.5 belongs to the older pool a-twin and is not handed out from this one; what is in use stays."},
		{"older", "192.0.2.8-192.0.2.19 2001:db8::-2001:db8::3", "Accepted true: Acted on as written."},
		{"young", "192.0.2.20-192.0.2.255 2001:db8::4-2001:db8::ffff:ffff:ffff:ffff", "Overlaps false: " +
			"spec.addresses: 192.0.2.8-192.0.2.19, 2001:db8::-2001:db8::3 belongs to the older pool older and is not handed out from this one; what is in use stays. " +
			"spec.addresses: 192.0.2.5 belongs to the older pool a-twin and is not handed out from this one; what is in use stays. " +
			"spec.addresses: 192.0.2.0-192.0.2.4, 192.0.2.6-192.0.2.7 belongs to the older pool old and is not handed out from this one; what is in use stays."},
	} {
		p, v := c.Pools[i], c.Findings[i]
		if got := fmt.Sprintf("%s %t: %s", v.Reason(), v.Accepted(), v.Message()); p.Name != want.name || v.Name != want.name || words(p.Ranges) != want.ranges || got != want.finding {
			t.Errorf("%s: %s\n  %s\nwant %s: %s\n  %s", p.Name, words(p.Ranges), got, want.name, want.ranges, want.finding)
		}
		if p.Drain {
			t.Errorf("%s drains", p.Name)
		}
	}
}

func TestAnAdvertisementMayNameAPoolThatDoesNotExistYet(t *testing.T) {
	c := Compile(Objects{
		Pools: []*v1beta1.IPAddressPool{pool("edge", 0, "2001:db8::/64")},
		L2Advertisements: []*v1beta1.L2Advertisement{{
			ObjectMeta: metav1.ObjectMeta{Name: "lan", Generation: 9},
			Spec:       v1beta1.L2AdvertisementSpec{IPAddressPools: []v1beta1.ObjectName{"edge", "lab"}},
		}},
	})
	got := c.Findings[1].Condition()
	want := metav1.Condition{
		Type: "Accepted", Status: "True", Reason: "UnknownName", ObservedGeneration: 9,
		Message: "spec.ipAddressPools[1]: there is no IPAddressPool lab; it is advertised once there is.",
	}
	if got != want {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	if ad := c.L2Advertisements[0]; !slices.Equal(ad.Pools, []string{"edge", "lab"}) {
		t.Errorf("advertises %v", ad.Pools)
	}
}

func TestTheGravestProblemGivesTheReason(t *testing.T) {
	for i := range gravity[:len(gravity)-1] {
		v := Finding{Problems: []Problem{{Field: "b", Reason: gravity[len(gravity)-2]}, {Field: "a", Reason: gravity[i]}}}
		if v.Reason() != gravity[i] {
			t.Errorf("%s beside %s gives %s", gravity[i], gravity[len(gravity)-2], v.Reason())
		}
		if v.Accepted() != (gravity[i] == v1beta1.ReasonUnknownName) {
			t.Errorf("%s: accepted is %t", gravity[i], v.Accepted())
		}
	}
}

func TestAMessageFitsACondition(t *testing.T) {
	var v Finding
	for i := range 4000 {
		v.Problems = append(v.Problems, invalid(fmt.Sprintf("spec.addresses[%d]", i), "nö"))
	}
	if m := v.Message(); len(m) > maxMessage || !strings.HasSuffix(m, "...") {
		t.Errorf("a message of %d bytes that ends in %q", len(m), m[max(0, len(m)-9):])
	}
	many := make([]lb.AddressRange, 20)
	if got := list(many); strings.Count(got, ",") != maxListed || !strings.HasSuffix(got, ", 12 ranges more") {
		t.Errorf("20 ranges are listed as %s", got)
	}
}

func TestAFieldThatIsNotActedOnIsReported(t *testing.T) {
	table := []unsupported[v1beta1.IPAddressPoolSpec]{
		{"spec.retention", func(s *v1beta1.IPAddressPoolSpec) bool { return s.Retention != "" }, "addresses are not kept yet"},
		{"spec.drain", func(s *v1beta1.IPAddressPoolSpec) bool { return s.Drain }, "there is no draining yet"},
	}
	got := unsupportedIn(&v1beta1.IPAddressPoolSpec{Retention: "1h"}, table)
	if want := []Problem{{"spec.retention", v1beta1.ReasonUnsupported, "addresses are not kept yet"}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// Its free addresses are another pool's at once; that it overlaps is not what its
// operator has to hear.
func TestAPoolThatIsBeingDeletedYieldsItsAddresses(t *testing.T) {
	old := pool("old", 9, "192.0.2.0/29", "2001:db8::/126")
	now := metav1.Now()
	old.DeletionTimestamp = &now
	c := Compile(Objects{Pools: []*v1beta1.IPAddressPool{old, pool("new", 0, "192.0.2.0/30", "2001:db8::/127")}})
	for i, want := range []struct{ ranges, lost, finding string }{
		{"192.0.2.0-192.0.2.3 2001:db8::-2001:db8::1", "", "Acted on as written."},
		{"192.0.2.4-192.0.2.7 2001:db8::2-2001:db8::3", "192.0.2.0-192.0.2.3 2001:db8::-2001:db8::1", "Acted on as written."},
	} {
		if p, v := c.Pools[i], c.Findings[i]; words(p.Ranges) != want.ranges || words(p.Lost) != want.lost || v.Message() != want.finding {
			t.Errorf("%s: %s, lost %s: %s\nwant %+v", p.Name, words(p.Ranges), words(p.Lost), v.Message(), want)
		}
	}
}

func TestThousandsOfPoolsAreCompiledInNearlyLinearTime(t *testing.T) {
	var o Objects
	for i := range 8000 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 5), byte(i << 3), 0})
		o.Pools = append(o.Pools, pool(fmt.Sprintf("p%d", i), i%7, v1beta1.AddressRange(netip.PrefixFrom(a, 29).String())))
	}
	began := time.Now()
	if c := Compile(o); len(c.Pools) != 8000 || words(c.Pools[0].Ranges) == "" {
		t.Errorf("%d pools", len(c.Pools))
	}
	// A quadratic way takes 12 s on the machine where this takes 0.1 s.
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestTheOrderOfObjectsDoesNotMatter(t *testing.T) {
	o := Objects{
		Pools: []*v1beta1.IPAddressPool{
			pool("a", 0, "192.0.2.0/28", "2001:db8::/64"), pool("b", 0, "192.0.2.8/29", "bad"), pool("c", 1, "192.0.2.4", "2001:db8::/120"),
		},
		L2Advertisements: []*v1beta1.L2Advertisement{
			{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, {ObjectMeta: metav1.ObjectMeta{Name: "y"}, Spec: v1beta1.L2AdvertisementSpec{IPAddressPools: []v1beta1.ObjectName{"none"}}},
		},
	}
	want := Compile(o)
	rng := rand.New(rand.NewPCG(4, 4))
	for range 20 {
		rng.Shuffle(len(o.Pools), func(i, j int) { o.Pools[i], o.Pools[j] = o.Pools[j], o.Pools[i] })
		rng.Shuffle(len(o.L2Advertisements), func(i, j int) {
			o.L2Advertisements[i], o.L2Advertisements[j] = o.L2Advertisements[j], o.L2Advertisements[i]
		})
		if got := Compile(o); !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v\nwant %+v", got, want)
		}
	}
}
