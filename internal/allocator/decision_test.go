package allocator

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
)

// differ makes a zero value another one.
func differ(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Interface().(type) {
	case netip.Addr:
		v.Set(reflect.ValueOf(netip.MustParseAddr("2001:db8::1")))
		return
	case time.Time:
		v.Set(reflect.ValueOf(time.Unix(1, 0)))
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString("x")
	case reflect.Int:
		v.SetInt(1)
	case reflect.Uint8, reflect.Uint16, reflect.Uint64:
		v.SetUint(1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	case reflect.Struct:
		differ(t, v.Field(0))
	default:
		t.Fatalf("no other value of %v is known", v.Type())
	}
}

// eachFieldCounts fails the test for each field, alone, in which two may differ and be
// called equal.
func eachFieldCounts[T any](t *testing.T, equal func(a, b T) bool) {
	t.Helper()
	var zero T
	if !equal(zero, zero) {
		t.Errorf("%T differs from itself", zero)
	}
	for i := range reflect.TypeFor[T]().NumField() {
		var other T
		differ(t, reflect.ValueOf(&other).Elem().Field(i))
		if equal(zero, other) || equal(other, zero) {
			t.Errorf("%T: another %s is no difference", zero, reflect.TypeFor[T]().Field(i).Name)
		}
		if !equal(other, other) {
			t.Errorf("%T: with another %s it differs from itself", zero, reflect.TypeFor[T]().Field(i).Name)
		}
	}
}

// What is decided anew is news if it differs in anything: a field that is not compared
// would be told late, or never.
func TestADecisionThatDiffersInAnythingIsAnother(t *testing.T) {
	eachFieldCounts(t, Decision.Equal)
	eachFieldCounts(t, func(a, b Detail) bool { return (&a).equal(&b) })
	eachFieldCounts(t, func(a, b Detail) bool { return Decision{Detail: &a}.Equal(Decision{Detail: &b}) })
	eachFieldCounts(t, PoolDecision.Equal)
	eachFieldCounts(t, func(a, b lb.FreedAddress) bool {
		return PoolDecision{Freed: []lb.FreedAddress{a}}.Equal(PoolDecision{Freed: []lb.FreedAddress{b}})
	})
}

func TestWhatADecisionSaysOfItself(t *testing.T) {
	held := []Assignment{{Address: netip.MustParseAddr("2001:db8::1")}}
	for want, ds := range map[bool][]Decision{
		true:  {{Assignments: held}, {Assignments: append(held, Assignment{Address: netip.MustParseAddr("192.0.2.1")})}},
		false: {{}, {Short: true}, {Assignments: held, Short: true}},
	} {
		for _, d := range ds {
			if d.Allocated() != want {
				t.Errorf("%+v: allocated %v", d, d.Allocated())
			}
		}
	}
	for _, r := range Reasons() {
		satisfied := r == Allocated || r == Kept || r == Orphaned
		waits := !satisfied && r != Headless && r != NotOurs
		if r.Satisfied() != satisfied || r.Waiting() != waits {
			t.Errorf("%v: satisfied %v, waiting %v", r, r.Satisfied(), r.Waiting())
		}
	}
}
