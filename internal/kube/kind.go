package kube

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

// An apiObject is an object of the API.
type apiObject interface {
	runtime.Object
	metav1.Object
}

// A Kind is the client of one kind of objects, in one namespace or in all. It is
// what client-go's generated clients are, less apply and all that it depends on.
type Kind[T apiObject, L runtime.Object] struct {
	client              rest.Interface
	resource, namespace string
	object              func() T
	list                func() L
}

// kind makes the client of one kind of objects.
func kind[T, L any, PT interface {
	*T
	apiObject
}, PL interface {
	*L
	runtime.Object
}](c rest.Interface, resource, namespace string) Kind[PT, PL] {
	return Kind[PT, PL]{c, resource, namespace, func() PT { return new(T) }, func() PL { return new(L) }}
}

// to completes a request.
func (k Kind[T, L]) to(r *rest.Request, options runtime.Object) *rest.Request {
	return r.NamespaceIfScoped(k.namespace, k.namespace != "").Resource(k.resource).VersionedParams(options, parameters)
}

// answer sends a request and returns the object that is its answer.
func (k Kind[T, L]) answer(ctx context.Context, r *rest.Request) (T, error) {
	o := k.object()
	err := r.Do(ctx).Into(o)
	return o, err
}

// Get reads an object.
func (k Kind[T, L]) Get(ctx context.Context, name string, o metav1.GetOptions) (T, error) {
	return k.answer(ctx, k.to(k.client.Get(), &o).Name(name))
}

// Create creates an object.
func (k Kind[T, L]) Create(ctx context.Context, object T, o metav1.CreateOptions) (T, error) {
	return k.answer(ctx, k.to(k.client.Post(), &o).Body(object))
}

// Update replaces an object, if it still is the version that is given.
func (k Kind[T, L]) Update(ctx context.Context, object T, o metav1.UpdateOptions) (T, error) {
	return k.answer(ctx, k.to(k.client.Put(), &o).Name(object.GetName()).Body(object))
}

// Patch changes an object.
func (k Kind[T, L]) Patch(ctx context.Context, name string, t types.PatchType, patch []byte, o metav1.PatchOptions, subresources ...string) (T, error) {
	return k.answer(ctx, k.to(k.client.Patch(t), &o).Name(name).SubResource(subresources...).Body(patch))
}

// List reads the objects that the options select.
func (k Kind[T, L]) List(ctx context.Context, o metav1.ListOptions) (L, error) {
	l := k.list()
	err := k.to(k.client.Get(), &o).Do(ctx).Into(l)
	return l, err
}

// Watch follows them.
func (k Kind[T, L]) Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	return k.to(k.client.Get(), &o).Watch(ctx)
}
