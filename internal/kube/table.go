package kube

import (
	"fmt"
	"runtime/debug"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/tools/cache"
)

// A name is the identity of an object within its kind; Namespace is empty for
// cluster-scoped ones.
type name = types.NamespacedName

// A row is an API object reduced to a value.
type row[V any] struct {
	name    name
	version string
	uid     types.UID
	value   V
	// answered is set while only the answer to a write has shown this version;
	// the watch has yet to catch up with it.
	answered bool
}

// GetObjectMeta lets the reflector file the row under its name.
func (r *row[V]) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: r.name.Namespace, Name: r.name.Name, ResourceVersion: r.version, UID: r.uid}
}

// A table holds the objects of one kind. It is the store behind a reflector and
// takes the answers to writes as well; the newest version of an object wins.
type table[V any] struct {
	mu *sync.Mutex
	// reduce turns an API object into a value; it must not keep the object.
	reduce func(object any) (V, error)
	// changed hears of each row that came, went or was replaced; mu is held.
	// Rows are immutable; was or is may be nil, not both.
	changed func(was, is *row[V])
	// loaded hears that the table holds all there is; mu is held.
	loaded func()

	rows map[name]*row[V]
	full bool
	// seen is the latest version that the watch has shown of any object.
	seen string
}

var (
	_ cache.TransformingStore      = (*table[int])(nil)
	_ cache.ReflectorBookmarkStore = (*table[int])(nil)
)

func newTable[V any](mu *sync.Mutex, reduce func(any) (V, error), changed func(was, is *row[V]), loaded func()) *table[V] {
	return &table[V]{mu: mu, reduce: reduce, changed: changed, loaded: loaded, rows: map[name]*row[V]{}}
}

// row reduces an API object, or returns what has been reduced already.
func (t *table[V]) row(object any) (*row[V], error) {
	if r, ok := object.(*row[V]); ok {
		return r, nil
	}
	m, err := meta.Accessor(object)
	if err != nil {
		return nil, err
	}
	v, err := contain(t.reduce, object)
	if err != nil {
		return nil, fmt.Errorf("%T %s/%s: %w", object, m.GetNamespace(), m.GetName(), err)
	}
	return &row[V]{
		name:    name{Namespace: m.GetNamespace(), Name: m.GetName()},
		version: m.GetResourceVersion(),
		uid:     m.GetUID(),
		value:   v,
	}, nil
}

// contain turns a panic over one object into an error about it.
func contain[V any](reduce func(any) (V, error), object any) (v V, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return reduce(object)
}

// newer reports whether version a is later than b. Versions that cannot be
// compared count as news.
func newer(a, b string) bool {
	c, err := resourceversion.CompareResourceVersion(a, b)
	return err != nil || c > 0
}

// Add stores what the watch saw.
func (t *table[V]) Add(object any) error { return t.Update(object) }

// Update stores what the watch saw.
func (t *table[V]) Update(object any) error {
	is, err := t.row(object)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen = is.version
	t.watched(is)
	return nil
}

// watched stores a row that the API server showed by list or watch, which bring
// the versions of an object in their order. Only the answers to our own writes
// run ahead of them.
func (t *table[V]) watched(is *row[V]) {
	was := t.rows[is.name]
	if was != nil && was.answered && newer(was.version, is.version) {
		return
	}
	t.rows[is.name] = is
	if was != nil && was.uid == is.uid && was.version == is.version {
		return
	}
	t.changed(was, is)
}

// Answer stores the object with which the API server answered a write of ours.
// An object that has left the table meanwhile does not return to it.
func (t *table[V]) Answer(object any) error {
	is, err := t.row(object)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	was := t.rows[is.name]
	if was == nil || was.uid != is.uid || !newer(is.version, was.version) {
		return nil
	}
	is.answered = true
	t.rows[is.name] = is
	t.changed(was, is)
	return nil
}

// Delete forgets an object.
func (t *table[V]) Delete(object any) error {
	if d, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = d.Obj
	}
	m, err := meta.Accessor(object)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen = m.GetResourceVersion()
	was := t.rows[name{Namespace: m.GetNamespace(), Name: m.GetName()}]
	if was == nil || was.answered && newer(was.version, m.GetResourceVersion()) {
		return nil
	}
	delete(t.rows, was.name)
	t.changed(was, nil)
	return nil
}

// Replace makes the table hold what was listed at a version, except for what the
// answer to a write has shown to be newer than the list.
func (t *table[V]) Replace(objects []any, version string) error {
	listed := make(map[name]*row[V], len(objects))
	for _, o := range objects {
		r, err := t.row(o)
		if err != nil {
			// One bad object must not hide the others.
			utilruntime.HandleError(err)
			continue
		}
		listed[r.name] = r
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.seen != "" && newer(t.seen, version) {
		// The API server's history has been put back: what answers have shown never
		// happened.
		for n, r := range t.rows {
			if r.answered {
				known := *r
				known.answered = false
				t.rows[n] = &known
			}
		}
	}
	t.seen = version
	for n, was := range t.rows {
		if listed[n] == nil && !(was.answered && newer(was.version, version)) {
			delete(t.rows, n)
			t.changed(was, nil)
		}
	}
	for _, is := range listed {
		t.watched(is)
	}
	if !t.full {
		t.full = true
		t.loaded()
	}
	return nil
}

// Bookmark notes that the watch has shown everything up to a version.
func (t *table[V]) Bookmark(version string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen = version
	return nil
}

// CatchUp adds what a consistent list at a version shows and the watch has not
// shown yet. What the list lacks stays until the watch says that it is gone.
func (t *table[V]) CatchUp(objects []any, version string) {
	var listed []*row[V]
	for _, o := range objects {
		r, err := t.row(o)
		if err != nil {
			utilruntime.HandleError(err)
			continue
		}
		listed = append(listed, r)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !newer(version, t.seen) {
		return // the watch is ahead of the list, deletions included
	}
	for _, is := range listed {
		if was := t.rows[is.name]; was == nil || newer(is.version, was.version) {
			is.answered = true
			t.rows[is.name] = is
			t.changed(was, is)
		}
	}
}

// clear forgets all objects: there is no such kind. mu is held.
func (t *table[V]) clear() {
	for n, was := range t.rows {
		delete(t.rows, n)
		t.changed(was, nil)
	}
}

// Resync does nothing: nothing here is ever out of step with itself.
func (t *table[V]) Resync() error { return nil }

// Transformer reduces objects while a list is still coming in.
func (t *table[V]) Transformer() cache.TransformFunc {
	return func(o any) (any, error) {
		if _, ok := o.(cache.DeletedFinalStateUnknown); ok {
			return o, nil
		}
		return t.row(o)
	}
}
