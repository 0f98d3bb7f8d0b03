/* stacks.h - the stacks of shim.h's fibers: how one is begun, and left for another. */
#pragma once
#include "shim.h"
#include <sanitizer/asan_interface.h>

#ifndef __SANITIZE_ADDRESS__
#define __sanitizer_start_switch_fiber(...)
#define __sanitizer_finish_switch_fiber(...)
#endif

extern "C" {
void shim_switch(void **old_stack, void *new_stack);
}

#if defined(SHIM_UCONTEXT) || !defined(__x86_64__)
#include <ucontext.h>
/* Portable, and slow: each switch is a system call. What is left lies on the stack that is left. */
void shim_switch(void **old_stack, void *new_stack) {
    ucontext_t here;
    *old_stack = &here;
    swapcontext(&here, static_cast<ucontext_t *>(new_stack));
}
static void *prepare_stack(char *stack, void (*start)()) {
    static ucontext_t contexts[SHIM_THREADS];
    ucontext_t *context = contexts + (shim.current - shim.fibers);
    getcontext(context);
    context->uc_stack.ss_sp = stack, context->uc_stack.ss_size = SHIM_STACK;
    makecontext(context, start, 0);
    return context;
}
#else
/* x86-64: put the registers that a callee must keep on the old stack, take the new one's. */
asm(".globl shim_switch\n"
    "shim_switch: push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n"
    "mov %rsp, (%rdi); mov %rsi, %rsp\n"
    "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret\n");
static void *prepare_stack(char *stack, void (*start)()) {
    void **top =
        reinterpret_cast<void **>(stack + SHIM_STACK); /* aligned to 16, as calls want it */
    *--top = nullptr;
    *--top = reinterpret_cast<void *>(start);
    for (int i = 0; i < 6; ++i)
        *--top = nullptr;
    return top;
}
#endif

/* Leave one stack for another; AddressSanitizer is told of both ends. */
static void leave(Fiber &from, Fiber &to, bool for_good) {
    __sanitizer_start_switch_fiber(for_good ? nullptr : &from.asan, to.stack, to.stack_bytes);
    shim_switch(&from.stack_pointer, to.stack_pointer);
    __sanitizer_finish_switch_fiber(from.asan, nullptr, nullptr);
}
