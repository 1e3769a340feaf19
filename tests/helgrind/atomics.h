/* Makes helgrind understand C11 atomics, which it takes for plain accesses: what is written before an atomic write is
 * seen by whoever reads it. Put before each file by -include, in copies of the libraries that are made for helgrind
 * alone; the product knows nothing of it.
 *
 * An access that is ordered (all but memory_order_relaxed ones) tells helgrind so, and accesses of atomic objects
 * themselves are no races. That is all: data that is passed on by nothing but a relaxed access, or by no atomic at all,
 * is reported as ever. */
#ifndef HELGRIND_ATOMICS_H
#define HELGRIND_ATOMICS_H

#include <stdatomic.h>
#include <stddef.h>
#include <valgrind/helgrind.h>

static inline void helgrind_before(const volatile void *object, size_t size)
{
    VALGRIND_HG_DISABLE_CHECKING(object, size);
    ANNOTATE_HAPPENS_BEFORE(object);
}

static inline void helgrind_after(const volatile void *object, size_t size)
{
    VALGRIND_HG_DISABLE_CHECKING(object, size);
    ANNOTATE_HAPPENS_AFTER(object);
}

/* The value of an access, between what is to be said before and after it. */
#define HELGRIND_READ(object, access)               \
    __extension__({                                 \
        __auto_type helgrind_value = (access);      \
        helgrind_after((object), sizeof *(object)); \
        helgrind_value;                             \
    })
#define HELGRIND_CHANGE(object, access)              \
    __extension__({                                  \
        helgrind_before((object), sizeof *(object)); \
        __auto_type helgrind_value = (access);       \
        helgrind_after((object), sizeof *(object));  \
        helgrind_value;                              \
    })

#undef atomic_load
#undef atomic_load_explicit
#undef atomic_store_explicit
#undef atomic_fetch_add_explicit
#undef atomic_store
#undef atomic_exchange
#undef atomic_compare_exchange_strong
#undef atomic_compare_exchange_weak
#undef atomic_fetch_add
#undef atomic_fetch_sub
#undef atomic_fetch_or
#undef atomic_fetch_and

/* Not ordered: no race, and nothing else. */
#define atomic_load_explicit(o, order)                \
    __extension__({                                   \
        VALGRIND_HG_DISABLE_CHECKING(o, sizeof *(o)); \
        __atomic_load_n(o, order);                    \
    })
#define atomic_store_explicit(o, v, order)            \
    __extension__({                                   \
        VALGRIND_HG_DISABLE_CHECKING(o, sizeof *(o)); \
        __atomic_store_n(o, v, order);                \
    })
#define atomic_fetch_add_explicit(o, v, order)        \
    __extension__({                                   \
        VALGRIND_HG_DISABLE_CHECKING(o, sizeof *(o)); \
        __atomic_fetch_add(o, v, order);              \
    })

#define atomic_load(o) HELGRIND_READ(o, __atomic_load_n(o, __ATOMIC_SEQ_CST))
#define atomic_store(o, v) (helgrind_before((o), sizeof *(o)), __atomic_store_n((o), (v), __ATOMIC_SEQ_CST))
#define atomic_exchange(o, v) HELGRIND_CHANGE(o, __atomic_exchange_n(o, v, __ATOMIC_SEQ_CST))
#define atomic_compare_exchange_strong(o, e, v) \
    HELGRIND_CHANGE(o, __atomic_compare_exchange_n(o, e, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
#define atomic_compare_exchange_weak(o, e, v) atomic_compare_exchange_strong(o, e, v)
#define atomic_fetch_add(o, v) HELGRIND_CHANGE(o, __atomic_fetch_add(o, v, __ATOMIC_SEQ_CST))
#define atomic_fetch_sub(o, v) HELGRIND_CHANGE(o, __atomic_fetch_sub(o, v, __ATOMIC_SEQ_CST))
#define atomic_fetch_or(o, v) HELGRIND_CHANGE(o, __atomic_fetch_or(o, v, __ATOMIC_SEQ_CST))
#define atomic_fetch_and(o, v) HELGRIND_CHANGE(o, __atomic_fetch_and(o, v, __ATOMIC_SEQ_CST))

#endif
