package apitest

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/labels"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// A selection is what a list or a watch asks for.
type selection struct {
	resource, namespace string
	labels              labels.Selector
	// is and isNot are values of spec.type.
	is, isNot string
}

func selectionOf(r *http.Request, w Write) (selection, error) {
	q := r.URL.Query()
	sel := selection{resource: w.Resource, namespace: w.Namespace}
	var err error
	if sel.labels, err = labels.Parse(q.Get("labelSelector")); err != nil {
		return sel, err
	}
	if is, ok := strings.CutPrefix(q.Get("fieldSelector"), "spec.type="); ok {
		sel.is = is
	} else if isNot, ok := strings.CutPrefix(q.Get("fieldSelector"), "spec.type!="); ok {
		sel.isNot = isNot
	}
	return sel, nil
}

func (sel selection) selects(f fields) bool {
	if f == nil {
		return false
	}
	spec, _ := f["spec"].(fields)
	all := labels.Set{}
	if have, ok := metadata(f)["labels"].(fields); ok {
		for k := range have {
			all[k] = text(have, k)
		}
	}
	kind := text(spec, "type")
	return (sel.namespace == "" || sel.namespace == text(metadata(f), "namespace")) && sel.labels.Matches(all) &&
		(sel.is == "" || sel.is == kind) && (sel.isNot == "" || sel.isNot != kind)
}

// read answers a get, a list or a watch.
func (s *Server) read(r *http.Request, w Write) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.Name != "" {
		if f, ok := s.objects[w.Resource][key(w.Namespace, w.Name)]; ok {
			return Answer(http.StatusOK, f), nil
		}
		return Answer(http.StatusNotFound, Refusal(http.StatusNotFound, "NotFound")), nil
	}
	sel, err := selectionOf(r, w)
	if err != nil {
		return nil, err
	}
	gvk := resources[w.Resource]
	q := r.URL.Query()
	all := s.objects[w.Resource]
	items := []any{}
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if sel.selects(all[k]) {
			items = append(items, all[k])
		}
	}
	if q.Get("watch") == "" || q.Get("watch") == "false" {
		return Answer(http.StatusOK, fields{
			"apiVersion": gvk.GroupVersion().String(), "kind": gvk.Kind + "List",
			"metadata": fields{"resourceVersion": strconv.Itoa(s.version)}, "items": items,
		}), nil
	}
	out := &stream{selection: sel, ctx: r.Context(), wake: make(chan struct{}, 1)}
	if q.Get("sendInitialEvents") == "true" {
		for _, item := range items {
			out.send(watch.Added, item.(fields))
		}
		out.send(watch.Bookmark, fields{
			"apiVersion": gvk.GroupVersion().String(), "kind": gvk.Kind,
			"metadata": fields{
				"resourceVersion": strconv.Itoa(s.version),
				"annotations":     fields{"k8s.io/initial-events-end": "true"},
			},
		})
	}
	s.watches[out] = struct{}{}
	out.closed = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watches, out)
	}
	return &http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: out,
	}, nil
}

// A stream is the body of a watch: what is to be read, and who waits for more.
type stream struct {
	selection
	ctx    context.Context
	closed func()

	mu   sync.Mutex
	text []byte
	wake chan struct{}
}

// changed sends what a change is for those who watch a selection.
func (w *stream) changed(resource string, was, is fields) {
	if w.resource != resource {
		return
	}
	switch before, now := w.selects(was), w.selects(is); {
	case before && now:
		w.send(watch.Modified, is)
	case now:
		w.send(watch.Added, is)
	case before:
		gone := toFields(was)
		metadata(gone)["resourceVersion"] = metadata(is)["resourceVersion"]
		w.send(watch.Deleted, gone)
	}
}

func (w *stream) send(t watch.EventType, f fields) {
	line, err := json.Marshal(fields{"type": t, "object": f})
	utilruntime.Must(err)
	w.mu.Lock()
	w.text = append(append(w.text, line...), '\n')
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Read waits for the next events.
func (w *stream) Read(p []byte) (int, error) {
	for {
		w.mu.Lock()
		n := copy(p, w.text)
		w.text = w.text[n:]
		w.mu.Unlock()
		if n > 0 {
			return n, nil
		}
		select {
		case <-w.wake:
		case <-w.ctx.Done():
			return 0, io.EOF
		}
	}
}

// Close ends the watch.
func (w *stream) Close() error {
	w.closed()
	return nil
}
